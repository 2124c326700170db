"""Functions with modules of their own, as `pyro.module` registers them: the numbers of a module that holds them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pvae
from pvae.programs.held_modules import find_held_modules
from pvae.train.devices import isolated


def _encoder() -> nn.Sequential:
    with isolated(5):
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 4))


def _decoder() -> nn.Linear:
    with isolated(6):
        return nn.Linear(2, 4)


def _model(x: Tensor, decoder: nn.Module) -> None:
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)


def _guide(x: Tensor, encoder: nn.Module) -> None:
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        loc, log_scale = encoder(x).chunk(2, -1)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Holding(pvae.LatentModel):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = _encoder(), _decoder()

    def model(self, x: Tensor) -> None:
        _model(x, self.decoder)

    def guide(self, x: Tensor) -> None:
        _guide(x, self.encoder)


def by_closure() -> Any:
    parts = {"encoder": _encoder(), "decoder": [_decoder()]}

    def model(x: Tensor) -> None:
        _model(x, parts["decoder"][0])  # type: ignore[index]

    def guide(x: Tensor) -> None:
        _guide(x, parts["encoder"])  # type: ignore[arg-type]

    return pvae.pair(model, pyro.poutine.scale(guide, scale=1.0))


PARTS = SimpleNamespace()


def _global_model(x: Tensor) -> None:
    _model(x, PARTS.decoder)


def _global_guide(x: Tensor) -> None:
    _guide(x, PARTS.encoder)


def by_global() -> Any:
    PARTS.encoder, PARTS.decoder = _encoder(), _decoder()
    return pvae.pair(_global_model, _global_guide)


def by_partial() -> Any:
    return pvae.pair(
        functools.partial(_model, decoder=_decoder()), functools.partial(_guide, encoder=_encoder()), fields={"x": "x"}
    )


class _PlainObject:
    def __init__(self) -> None:
        self.networks = (_encoder(), _decoder())

    def model(self, x: Tensor) -> None:
        _model(x, self.networks[1])

    def guide(self, x: Tensor) -> None:
        _guide(x, self.networks[0])


def _fit(make: Callable[[], Any], step: str = "eager", **options: Any) -> tuple[list[float], list[float]]:
    """Return the losses and the validation bounds, and two evaluations, in double precision."""
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    splits = pvae.load_data({"x": x[:20], "x_validation": x[20:]}, test=0)
    options = {"epochs": 3, "batch_size": 8, "learning_rate": 0.02, "validation_particles": 2} | options
    run = pvae.fit(make(), splits, step=step, precision="float64", seed=0, progress=False, **options)
    numbers = [record[name] for record in run.history for name in ("loss", "validation_bound")]
    return numbers, [pvae.evaluate.elbo(run, x, particles=4).value, pvae.evaluate.elbo(run, x[:3], particles=4).value]


@pytest.mark.parametrize("make", [by_closure, by_global, by_partial, _PlainObject])
def test_functions_have_the_numbers_of_a_module_that_holds_their_modules(make: Callable[[], Any]) -> None:
    expected = _fit(Holding)
    for step in ("eager", "graph"):
        losses, evaluations = _fit(make, step)
        assert losses == pytest.approx(expected[0], rel=1e-12) and evaluations == pytest.approx(expected[1], rel=1e-12)


def test_running_averages_of_functions_are_in_the_checkpoints(tmp_path: Path) -> None:
    whole = _fit(by_closure)
    _fit(by_closure, epochs=1, out=tmp_path / "run")
    assert _fit(by_closure, out=tmp_path / "run", resume=True) == whole
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    opened = pvae.open_run(tmp_path / "run", by_closure())
    assert pvae.evaluate.elbo(opened, x, particles=4).value == whole[1][0]


def test_a_check_leaves_running_averages_of_functions_as_they_are() -> None:
    model = by_global()
    pvae.check(model, {"x": torch.randn(8, 4)})
    assert PARTS.encoder.training and torch.equal(PARTS.encoder[1].running_mean, torch.zeros(6))


def test_modules_of_the_owner_and_of_libraries_are_not_held() -> None:
    model = Holding()
    assert find_held_modules(model.model, model) == {}
    assert find_held_modules(pvae.VAE(4).model, None).keys() == {"VAE"}
