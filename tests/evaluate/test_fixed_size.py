"""Programs for a fixed number of data are evaluated on all of them at once; other programs still run in parts."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import pvae
from pvae.batch import Batch
from pvae.evaluate.evaluation_context import evaluation_context

pytestmark = pytest.mark.usefixtures("own_store", "seeded")

X = torch.randn(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
EXACT = dist.Normal(torch.zeros_like(X), 2**0.5).log_prob(X).mean().item()


class Amortised(pvae.LatentModel):
    """The exact posterior Normal(x / 2, 1 / 2) of x = z + e, computed from each datum; it records its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.sizes: set[int] = set()

    def size(self, x: Tensor) -> int:
        return len(x)

    def means(self, x: Tensor) -> Tensor:
        return self.slope * x

    def model(self, x: Tensor) -> None:
        self.sizes.add(len(x))
        with pyro.plate("data", self.size(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", self.size(x)):
            pyro.sample("z", dist.Normal(self.means(x), 0.5**0.5))


class OfThirty(Amortised):
    """The number of data is a constant of the program."""

    def size(self, x: Tensor) -> int:
        return 30


class ByPosition(Amortised):
    """One mean for each position: on a part of the data it runs, and takes the first means."""

    def __init__(self) -> None:
        super().__init__()
        self.posterior_means = nn.Parameter(X / 2)

    def means(self, x: Tensor) -> Tensor:
        return self.posterior_means[: len(x)]


class PerDatum(ByPosition):
    """One mean for each datum, which fits no other number of data."""

    def means(self, x: Tensor) -> Tensor:
        return self.posterior_means


@pytest.mark.parametrize("make", [OfThirty, ByPosition, PerDatum])
def test_fixed_size_programs_run_on_all_data_at_once(make: type[Amortised]) -> None:
    for particles, chunk in ((20, 10_000), (1000, 10_000), (7, 3)):
        options = {"particles": particles, "chunk": chunk}
        assert pvae.evaluate.log_evidence(make(), Batch(x=X), **options).value == pytest.approx(EXACT, abs=1e-9)
        assert pvae.evaluate.elbo(make(), Batch(x=X), **options).value == pytest.approx(EXACT, abs=1e-9)
    judgement = pvae.evaluate.judge(make(), Batch(x=X), particles=1000)
    assert judgement.gap.value == pytest.approx(0.0, abs=1e-9)
    assert judgement.diagnosis.latents["z"].activity == pytest.approx((X / 2).var().item())


def test_other_programs_run_in_parts_of_the_wanted_size() -> None:
    model = Amortised()
    with evaluation_context(model, Batch(x=X)) as context:
        assert [batch.size for batch in context.chunks(8)] == [8, 8, 8, 6]
    pvae.evaluate.log_evidence(model, Batch(x=X), particles=5, chunk=40)
    assert {8, 6} < model.sizes


def test_fixed_size_programs_are_first_run_on_all_data() -> None:
    model = OfThirty()
    pvae.evaluate.elbo(model, Batch(x=X), particles=4)
    assert model.sizes == {30}


def test_training_looks_at_batches_of_its_own_size_only() -> None:
    model = OfThirty()
    data = pvae.load_data({"x": X}, validation=0, test=0)
    pvae.fit(model, data, epochs=1, batch_size=30, precision="float64", progress=False)
    assert model.sizes - {15} == {30}  # half of the batch is what the check tries
