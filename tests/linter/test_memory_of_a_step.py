"""A training step that does not fit is refused by the check, with its memory and a batch size that fits."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae.errors import InputError
from pvae.memory import PeakMemory

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

MEGA = 1e6


def peak_of(model: Any, batch: dict[str, torch.Tensor], objective: str) -> int:
    with PeakMemory() as peak:
        assert not pvae.check(model, batch, objective).fatal
    return peak.bytes


def bytes_in(text: str) -> float:
    number, unit = re.search(r"needs (?:about|more than) ([\d.]+) (MB|bytes)", text).groups()  # type: ignore[union-attr]
    return float(number) * (MEGA if unit == "MB" else 1)


@pytest.mark.parametrize("objective", ["elbo", "iwae:particles=5", "vimco:particles=5", "elbo-analytic"])
def test_the_memory_of_a_step_is_estimated_before_it_is_allocated(
    objective: str, set_free_memory: Callable[[float | None], None]
) -> None:
    model, batch = pvae.VAE((100,), latent=2, hidden=50), {"x": torch.rand(400, 100).round()}
    needed = peak_of(model, batch, objective)
    set_free_memory(1.5 * needed)
    assert not pvae.check(model, batch, objective).fatal
    set_free_memory(0.5 * needed)
    with PeakMemory() as peak:
        (finding,) = pvae.check(model, batch, objective).fatal
    assert peak.bytes <= 0.5 * needed
    assert finding.kind == "not enough memory" and finding.subject == "400 data"
    assert bytes_in(finding.message) == pytest.approx(needed, rel=0.25)
    advised = int(re.search(r"about (\d+) fits", finding.fix).group(1))  # type: ignore[union-attr]
    part = {"x": batch["x"][:advised]}
    assert not pvae.check(model, part, objective).fatal
    set_free_memory(None)
    assert 0.2 * needed < peak_of(model, part, objective) <= 0.5 * needed


def test_a_training_is_refused_before_its_first_step(set_free_memory: Callable[[float | None], None]) -> None:
    data = pvae.load_data(torch.rand(300, 100).round(), validation=0, test=0)
    model = pvae.VAE((100,), latent=2, hidden=50)
    set_free_memory(1e6)
    state = torch.get_rng_state()
    with pytest.raises(
        InputError, match=r"not enough memory .* on 300 data .* 1 MB are free, .* used\. Lower batch_size \(about"
    ):
        pvae.fit(model, data, objective="iwae:particles=5", epochs=1, batch_size=300, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    run = pvae.fit(model, data, objective="iwae:particles=5", epochs=1, batch_size=30, progress=False)
    assert len(run.history) == 1


def test_programs_of_a_fixed_size_have_the_lower_bound_only(set_free_memory: Callable[[float | None], None]) -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", 300):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(300, 1000), 1.0).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        scale = pyro.param("scale", torch.ones(300))
        with pyro.plate("data", 300):
            pyro.sample("z", dist.Normal(x.mean(-1), scale.exp()))

    set_free_memory(1e6)
    (finding,) = pvae.check(pvae.pair(model, guide), {"x": torch.randn(300, 1000)}, data_size=300).fatal
    assert re.search(r"needs more than [\d.]+ .* 1 MB are free", finding.message)
    assert finding.fix == "Lower batch_size, or the number of particles of the objective."


def test_a_validation_takes_fewer_data_at_a_time(set_free_memory: Callable[[float | None], None], capsys: Any) -> None:
    data = pvae.load_data(torch.rand(80, 100).round(), validation=40, test=0)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 10, "validation_particles": 100, "progress": True}
    set_free_memory(1.5e6)
    with PeakMemory() as peak:
        run = pvae.fit(pvae.VAE((100,), latent=2, hidden=50), data, step="eager", **options)
    assert "validation_bound" in run.history[-1] and peak.bytes < 2e6
    words = r"validation bound is computed for \d+ data at a time. That of 40 data with 100 particles needs"
    output = capsys.readouterr()
    assert re.search(words, " ".join((output.out + output.err).split()))
    set_free_memory(3e5)
    with pytest.raises(
        InputError, match=r"bound of one datum with 10000 particles needs .* Lower validation_particles"
    ):
        pvae.fit(pvae.VAE((100,), latent=2, hidden=50), data, **{**options, "validation_particles": 10_000})
    many = pvae.load_data(torch.rand(410, 100).round(), validation=400, test=0)
    with pytest.raises(InputError, match=r"The loss of all 400 validation data needs .* Lower validation_limit\."):
        pvae.fit(pvae.VAE((100,), latent=2, hidden=50), many, **{**options, "batch_size": 1}, objective="dirac")


def test_an_imputation_takes_fewer_data_at_a_time(set_free_memory: Callable[[float | None], None]) -> None:
    model = pvae.MaskedVAE((50,), latent=2, hidden=10)
    x, mask = torch.rand(20, 50).round(), (torch.rand(20, 50) > 0.3).float()
    whole = model.impute(x, mask, n=1, particles=500).mean
    set_free_memory(5e6)
    with PeakMemory() as peak, pytest.warns(UserWarning, match=r"data are computed at a time instead of 20"):
        part = model.impute(x, mask, n=1, particles=500).mean
    assert peak.bytes <= 5e6 and part.shape == whole.shape
    assert float((part - whole).abs().max()) < 0.3  # 500 weighted draws of a mean in [0, 1]
    set_free_memory(1e5)
    with pytest.raises(InputError, match=r"^One datum with 500 particles needs more than .* Lower particles\.$"):
        model.impute(x, mask, n=1, particles=500)
