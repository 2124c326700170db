"""Runs of `pvae.fit(fields=...)`: evaluations and figures give the programs the fields of the training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pvae
from pvae.evaluate import elbo

OPTIONS = {"epochs": 1, "progress": False, "step": "eager", "seed": 0}


class OnC(pvae.LatentModel):
    """x ~ N(w(z) + 3 c, 1), with two latent units. The programs name the condition c."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = torch.nn.Linear(2, 3)
        self.encoder = torch.nn.Linear(4, 4)

    def model(self, x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            loc = self.decoder(z) + 3.0 * c.reshape(-1, 1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, c: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(torch.cat([x, c.reshape(-1, 1)], 1)).chunk(2, 1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class OnY(OnC):
    """The same programs, which call the condition y."""

    def model(self, x: Tensor, y: Tensor) -> None:  # type: ignore[override]
        super().model(x, y)

    def guide(self, x: Tensor, y: Tensor) -> None:  # type: ignore[override]
        super().guide(x, y)


@pytest.fixture(scope="module")
def data() -> pvae.Batch:
    """Data with a condition c, and labels y, which say nothing about x."""
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(12, 1, generator=generator)
    x = torch.randn(12, 3, generator=generator) + 3.0 * c
    return pvae.Batch(x=x, y=torch.arange(12) % 2, c=c)


def _trained(kind: type[OnC], data: pvae.Batch, **options: Any) -> pvae.Run:
    torch.manual_seed(0)
    return pvae.fit(kind(), data, **OPTIONS, **options)


@pytest.fixture(scope="module")
def runs(data: pvae.Batch) -> tuple[pvae.Run, pvae.Run]:
    """A run of the programs that name c, and one whose y is the field c of the data."""
    return _trained(OnC, data), _trained(OnY, data, fields={"y": "c"})


def test_an_evaluation_of_a_run_uses_its_fields(runs: tuple[pvae.Run, pvae.Run], data: pvae.Batch) -> None:
    named, mapped = runs
    assert named.fields is None and mapped.fields == {"y": "c"}
    expected = elbo(named, data, particles=3).pointwise
    torch.testing.assert_close(elbo(mapped, data, particles=3).pointwise, expected, rtol=0, atol=0)
    labels = elbo(mapped, data, particles=3, fields={"y": "y"})
    assert labels.value < float(expected.mean()) - 1.0


@pytest.mark.parametrize("name", ["samples", "reconstructions", "latent", "traversal", "interpolation", "plane"])
def test_a_figure_of_a_run_uses_its_fields(
    name: str, runs: tuple[pvae.Run, pvae.Run], data: pvae.Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pvae import plots

    drawn: list[tuple[Any, ...]] = []
    for function in ("draws", "reconstructions", "latent_scatter", "traversal", "interpolations", "plane"):
        monkeypatch.setattr(plots, function, lambda *args, note="", **_: drawn.append((note, *args)))
    for run in runs:
        run.plot.draw(name, data, split="train", count=3)
    (note, *values), (note_of_mapped, *values_of_mapped) = drawn
    assert note == note_of_mapped and (name == "latent" or name == "interpolation" or "c" in note)
    for value, value_of_mapped in zip(values, values_of_mapped, strict=True):
        np.testing.assert_array_equal(value, value_of_mapped)
