"""A latent that a mask leaves out counts nothing, in the objectives that take the KL divergence apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import pvae
from pvae.objectives import make_objective
from pvae.programs.sites import sample_sites
from pvae.weights.kl import kl_of_site

pytestmark = pytest.mark.usefixtures("own_store")

X = torch.linspace(-2, 2, 6, dtype=torch.float64)
SEEN = torch.tensor([True, False, True, True, False, False])

Mask = Callable[[Any], Any]


def by_distribution(mask: bool | Tensor) -> Mask:
    return lambda density: pyro.sample("w", density.mask(mask))


def by_handler(mask: bool | Tensor) -> Mask:
    def draw(density: Any) -> Any:
        with poutine.mask(mask=mask):
            return pyro.sample("w", density)

    return draw


def programs(draw: Mask | None, event: bool = False) -> tuple[Any, Any]:
    """The posterior of x = z + 0.5 e, and a second latent w, with KL ((1.5 - 1) - log 1.5) / 2 per datum."""

    def density(variance: float) -> Any:
        one = dist.Normal(X.new_zeros(len(X), *[1] * event), variance**0.5)
        return one.to_event(1) if event else one

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0))
            if draw is not None:
                draw(density(1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.8 * x, 0.2**0.5))
            if draw is not None:
                draw(density(1.5))

    return model, guide


def loss(objective: str, *pair: Any) -> float:
    pyro.set_rng_seed(0)
    return float(make_objective(objective)().loss(*pair, X))


@pytest.mark.parametrize("objective", ["free-bits:nats=0", "free-bits:nats=0.3", "total-correlation:data_size=100"])
@pytest.mark.parametrize("event", [False, True])
@pytest.mark.parametrize("make", [by_distribution, by_handler])
def test_a_latent_that_is_switched_off_counts_nothing(objective: str, event: bool, make: Any) -> None:
    assert loss(objective, *programs(make(False), event)) == pytest.approx(loss(objective, *programs(None)), abs=1e-9)


def test_the_closed_form_counts_where_the_mask_is_on() -> None:
    added = loss("free-bits:nats=0", *programs(by_distribution(SEEN))) - loss("free-bits:nats=0", *programs(None))
    kl = (1.5 - 1 - torch.tensor(1.5, dtype=torch.float64).log().item()) / 2
    assert added == pytest.approx(3 * kl, abs=1e-9)


def test_two_masks_count_each_density_where_it_is_on() -> None:
    only_model = torch.tensor([False, True, True, True, False, True])
    q, p = dist.Normal(torch.zeros_like(X), 1.5**0.5), dist.Normal(torch.zeros_like(X), 1.0)
    guide, model = (
        poutine.trace(lambda: by_distribution(SEEN)(q)),
        poutine.trace(lambda: by_distribution(only_model)(p)),
    )
    (guide_site,) = sample_sites(guide.get_trace())
    (model_site,) = sample_sites(model.get_trace())
    model_site["value"] = w = guide_site["value"]
    kl = torch.distributions.kl_divergence(q, p)
    one_only = torch.where(SEEN, q.log_prob(w), 0.0) - torch.where(only_model, p.log_prob(w), 0.0)
    expected = torch.where(SEEN & only_model, kl, one_only)
    assert torch.allclose(kl_of_site(guide_site, model_site, True).terms, expected)


def test_free_bits_of_a_model_without_any_latent_that_counts_is_the_likelihood() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(torch.zeros_like(x), 1.0).mask(False))
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(torch.zeros_like(x), 1.0).mask(False))

    expected = -dist.Normal(0.0, 1.0).log_prob(X).sum().item()
    assert pvae.FreeBits(0.5).loss(model, guide, X) == pytest.approx(expected, abs=1e-9)
