"""A log evidence that is not to be trusted has a warning, and one that does not fit in memory is refused before."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pvae
from pvae import memory
from pvae.errors import InputError
from pvae.evaluate import aggregate_test, ais, diagnose, elbo, judge, log_evidence, to_arviz
from pvae.evaluate.running_statistics import CHUNK
from pvae.evaluate.weight_notes import weight_notes
from pvae.memory import PeakMemory

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

X = torch.tensor(exact.A_X)


def said(model: Any, particles: int) -> list[str]:
    """The warnings of the log evidence of three data."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log_evidence(model, {"x": X.expand(3, -1)}, particles)
    return [str(warning.message) for warning in caught]


def of_width(factor: float) -> exact.LinearGaussianModel:
    """The linear-Gaussian model; the guide has the posterior's mean and `factor` times the best variance."""
    mean, variance = exact.LinearGaussian().best_diagonal()
    return exact.LinearGaussianModel(mean, factor * variance)


def test_a_guide_near_the_posterior_needs_no_warning() -> None:
    assert said(of_width(1.5), 200) == []


@pytest.mark.parametrize(
    ("factor", "particles", "words"),
    [
        (0.02, 200, "3 of 3 data have Pareto k-hat above 0.57"),
        (1.5, 20, "Pareto k-hat needs at least 21 particles"),
    ],
)
def test_a_log_evidence_that_is_not_reliable_has_a_warning(factor: float, particles: int, words: str) -> None:
    (message,) = said(of_width(factor), particles)
    assert "The log evidence is not reliable" in message and words in message and "Use more particles" in message
    notes = [note for note in diagnose(of_width(factor), {"x": X.expand(3, -1)}, particles).notes if "data" in note]
    assert not notes or notes[0] in message  # one rule


def test_constant_weights_need_no_khat() -> None:
    assert weight_notes(torch.full((2,), 3.0), torch.full((2,), torch.nan), 3) == []
    assert weight_notes(torch.ones(2), torch.full((2,), torch.nan), 1) == ["Pareto k-hat needs at least 21 particles"]


def test_a_small_effective_sample_size_is_told_where_khat_shows_nothing() -> None:
    khat = torch.tensor([0.1, 0.2, 0.1])
    (note,) = weight_notes(torch.tensor([5.0, 90.0, 9.0]), khat, 200)
    assert "2 of 3 data have an effective sample size below 10" in note
    assert weight_notes(torch.tensor([50.0, 90.0, 10.0]), khat, 200) == []
    assert "1 of 3 data have no finite weight" in weight_notes(torch.tensor([50.0, torch.nan, 10.0]), khat, 200)[0]


def test_the_value_is_that_of_the_judgement() -> None:
    model, batch = of_width(1.5), {"x": X.expand(3, -1)}
    assert log_evidence(model, batch, 100, seed=3).value == judge(model, batch, 100, seed=3).log_evidence.value


class Wide(pvae.LatentModel):
    """A decoder with many outputs, so that the memory of an evaluation is nearly that of them."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.decoder, self.outputs = torch.nn.Linear(2, outputs), outputs

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            mean = self.decoder(z)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x[:, :1].expand(mean.shape[-2:]))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


@pytest.mark.parametrize(("particles", "data"), [(300, 1), (64, 4), (16, 64), (1, 400)])
def test_an_evaluation_that_does_not_fit_takes_a_smaller_chunk(
    particles: int, data: int, set_free_memory: Callable[[float | None], None]
) -> None:
    model, batch = Wide(500), {"x": torch.randn(data, 2)}
    set_free_memory(None)
    with PeakMemory() as whole:
        value = elbo(model, batch, particles).value
    set_free_memory(1.5 * whole.bytes)
    assert elbo(model, batch, particles).value == value
    for free in (1.1 * whole.bytes, 0.1 * whole.bytes):
        set_free_memory(free)
        state = torch.get_rng_state()
        with (
            PeakMemory() as peak,
            pytest.warns(UserWarning, match=rf"^chunk=\d+ is used in place of {CHUNK}") as caught,
        ):
            lowered = elbo(model, batch, particles).value
        assert peak.bytes <= free and torch.equal(torch.get_rng_state(), state)
        (warning,) = caught
        chunk = int(str(warning.message).split()[0].removeprefix("chunk="))
        assert f"{particles * data} particles times data at once needs" in str(warning.message)
        assert chunk > 0.1 * free / whole.bytes * particles * data  # 1/4, apart from the memory of a first run
        assert lowered == elbo(model, batch, particles, chunk=chunk).value


def test_an_evaluation_is_refused_if_one_particle_of_one_datum_does_not_fit(
    set_free_memory: Callable[[float | None], None],
) -> None:
    model, batch = Wide(5000), {"x": torch.randn(50, 2)}
    set_free_memory(10_000)
    with (
        PeakMemory() as peak,
        pytest.raises(InputError, match=r"one datum needs more than \d+ bytes .* 10000 bytes are free"),
    ):
        log_evidence(model, batch, 200)
    assert peak.bytes <= 10_000


def test_annealing_that_does_not_fit_moves_the_chains_of_fewer_data(
    set_free_memory: Callable[[float | None], None],
) -> None:
    model, x = Wide(500), torch.randn(40, 2)
    settings = {"temperatures": 2, "chains": 8, "limit": None, "transition": lambda numbers, b: numbers}
    set_free_memory(None)
    with PeakMemory() as whole, pytest.warns(UserWarning, match="runs eagerly"):  # a measured run is not traced
        evidence = ais(model, x, progress=False, **settings)
    set_free_memory(0.3 * whole.bytes)
    with PeakMemory() as peak, pytest.warns(UserWarning, match="data are annealed at a time instead of 40: .* MB are"):
        lowered = ais(model, x, progress=False, **settings)
    assert peak.bytes <= 0.3 * whole.bytes
    assert lowered.value == pytest.approx(evidence.value, abs=5 * (lowered.error + evidence.error))
    set_free_memory(20_000)
    with pytest.raises(InputError, match=r"Annealing of 1 of the data with 8 chains needs more .* Use fewer chains"):
        ais(model, x, progress=False, **settings)


def test_an_export_and_a_kernel_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = Wide(200), {"x": torch.randn(60, 2)}
    monkeypatch.setattr(memory, "free_bytes", lambda device: 300_000)
    with pytest.raises(InputError, match=r"An export of 100 draws of 60 data .* Lower draws, which is 100"):
        to_arviz(model, batch)
    with pytest.raises(InputError, match=r"A kernel of 120 draws .* Give fewer data, by limit"):
        aggregate_test(model, batch)
