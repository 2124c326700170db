"""Models that observe x in parts: samples, reconstructions and imputed values have each part at its place in x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pvae
from pvae.errors import InputError
from pvae.models import impute, reconstruct, sample
from pvae.models.rendering import render

pytestmark = pytest.mark.usefixtures("own_store")
X = torch.tensor([[50.0, 1.0, 2.0, 0.5], [40.0, 0.0, 3.0, 0.25], [30.0, 1.0, 4.0, 0.75]])


class Mixed(pvae.LatentModel):
    """The columns of x have sites of their own, in another order, with means 10 z + 1, 0.5, 100 and (7, 8)."""

    def __init__(self, part: Any = lambda x: x[:, 2]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.part = part

    def model(self, x: Tensor, mask: Tensor | None = None) -> None:
        seen = torch.ones_like(x) if mask is None else mask
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), self.scale))
            pyro.sample("count", dist.Poisson(torch.full((len(x),), 100.0)).mask(seen[:, 2]), obs=self.part(x))
            pyro.sample("bit", dist.Bernoulli(torch.full((len(x),), 0.5)).mask(seen[:, 1]), obs=x[:, 1])
            ends = dist.Normal(torch.stack([10 * z + 1, torch.full_like(z, 8.0)], -1), 1e-3)
            pyro.sample("ends", ends.mask(seen[:, ::3]).to_event(1), obs=x[:, ::3])

    def guide(self, x: Tensor, mask: Tensor | None = None) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x[:, 0] - 1) / 10, 1e-3))


@pytest.mark.parametrize("x", [X, X.double(), X.T.contiguous().T, torch.cat([X, X], 1)[:, 2:6].roll(2, 1)])
def test_each_part_has_its_place(x: Tensor) -> None:
    model = Mixed()
    torch.manual_seed(0)
    means = torch.tensor([0.0, 0.5, 100.0, 8.0]).expand(3, 4)
    rebuilt = reconstruct(model, {"x": x})
    torch.testing.assert_close(rebuilt[:, 1:], means[:, 1:])
    torch.testing.assert_close(rebuilt[:, 0], x[:, 0].float(), atol=0.1, rtol=0)
    torch.testing.assert_close(sample(model, {"x": x})[:, 1:], means[:, 1:])
    rendered = render(model, pvae.Batch(x=x.float()), {"z": torch.tensor([1.0, 2.0, 3.0])})
    torch.testing.assert_close(rendered[:, 0], torch.tensor([11.0, 21.0, 31.0]))
    torch.testing.assert_close(rendered[:, 1:], means[:, 1:])


def test_missing_values_of_each_part_are_imputed_at_their_place() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    done = impute(Mixed(), {"x": X, "mask": mask}, n=2, particles=4)
    expected = X.clone()
    expected[0, 2:], expected[1, 1] = torch.tensor([100.0, 8.0]), 0.5
    torch.testing.assert_close(done.mean, expected)
    assert done.draws.shape == (2, 3, 4) and (done.draws[:, 0, 2] > 50).all() and (done.draws[:, 2] == X[2]).all()


def test_a_run_returns_all_columns_by_name() -> None:
    table = pd.DataFrame(X.repeat(10, 1).numpy(), columns=["age", "smoker", "visits", "share"])
    run = pvae.fit(Mixed(), table, epochs=1, progress=False)
    drawn = run.sample(200)
    assert list(drawn.columns) == list(table.columns) and set(drawn["smoker"]) == {0, 1}
    assert (drawn["visits"] > 50).all() and np.allclose(drawn["share"], 8, atol=0.01)
    assert np.allclose(run.reconstruct(table)["age"], table["age"], atol=0.1)


@pytest.mark.parametrize("part", [lambda x: (x + 1)[:, 2], lambda x: x[:, 1], lambda x: x[:, [2]].squeeze(-1)])
def test_parts_that_are_not_known_are_refused(part: Any) -> None:
    for use in (sample, reconstruct):
        with pytest.raises(InputError, match=r"several sites \(count, bit, ends\), and which values of x") as error:
            use(Mixed(part), {"x": X})
        assert "\n" not in str(error.value)
