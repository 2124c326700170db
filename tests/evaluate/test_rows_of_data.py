"""An evaluation refuses an autoguide that draws rows of its own where the model's rows are given with the data."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import pvae
from pvae import InputError

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

ROWS = torch.tensor([7, 2, 9, 4])
X = torch.linspace(-3, 3, 12, dtype=torch.float64)
BATCH = pvae.Batch(x=X[ROWS], index=ROWS)


def model(x: Tensor, index: Tensor) -> None:
    with pyro.plate("data", 12, subsample=index):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def plates(x: Tensor, index: Tensor) -> Any:
    return pyro.plate("data", 12, subsample=index)


def exact_posteriors(**options: Any) -> Any:
    """An autoguide with the exact posterior Normal(x / 2, 1 / 2) of each of the twelve data."""
    guide = AutoNormal(model, **options)
    guide(X[:4], torch.arange(4))  # its parameters have twelve rows, the size of the plate
    with torch.no_grad():
        guide.locs.z_unconstrained.copy_(X / 2)
        guide.scales.z_unconstrained.copy_(torch.full_like(X, 0.5**0.5).expm1().log())  # softplus gives the scale
    return pvae.pair(model, guide)


@pytest.mark.parametrize("name", ["log_evidence", "elbo", "judge"])
def test_rows_of_its_own_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"'z.*subsample=index"):
        getattr(pvae.evaluate, name)(exact_posteriors(), BATCH, particles=10)


def test_rows_of_the_data_give_the_exact_evidence() -> None:
    exact = dist.Normal(torch.zeros(4, dtype=torch.float64), 2**0.5).log_prob(X[ROWS]).mean().item()
    pair = exact_posteriors(create_plates=plates)
    assert pvae.evaluate.log_evidence(pair, BATCH, particles=10).value == pytest.approx(exact, abs=1e-6)
    assert pvae.evaluate.elbo(pair, BATCH, particles=10).value == pytest.approx(exact, abs=1e-6)
