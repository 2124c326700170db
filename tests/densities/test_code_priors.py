"""Priors of codes: SciPy's mixture, a flow of standardised values, and sums over all sequences of codes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from stats import assert_close_in_sigmas
from torch import nn

from pvae.densities.autoregressive import AutoregressivePrior
from pvae.densities.full_mixture import FullMixturePrior
from pvae.densities.standardised_flow import StandardisedFlowPrior
from pvae.errors import InputError

EXACT = {"rtol": 1e-11, "atol": 1e-11}

pytestmark = pytest.mark.usefixtures("own_store", "seeded")


@pytest.mark.parametrize("components", [1, 3])
def test_full_mixture_agrees_with_scipy(components: int) -> None:
    generator = np.random.default_rng(0)
    weights, means = generator.dirichlet(np.ones(components)), generator.normal(size=(components, 2))
    factors = generator.normal(size=(components, 2, 2))
    covariances = factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(2)
    prior = FullMixturePrior(2, components).double()
    prior.set_parameters(*(torch.tensor(value) for value in (weights, means, covariances)))
    z = generator.normal(size=(5, 4, 2))
    parts = [multivariate_normal(means[k], covariances[k]).logpdf(z) + np.log(weights[k]) for k in range(components)]
    torch.testing.assert_close(prior(None).log_prob(torch.tensor(z)), torch.tensor(logsumexp(parts, axis=0)), **EXACT)


def test_a_new_full_mixture_of_one_component_is_standard_normal() -> None:
    z = torch.randn(4, 3)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(FullMixturePrior(3)(None).log_prob(z), expected)


@pytest.mark.parametrize("kind", ["maf", "spline"])
def test_standardised_flow_is_the_flow_of_standardised_values(kind: str) -> None:
    prior = StandardisedFlowPrior(2, kind, hidden=4).double()
    for parameter in prior.parameters():
        nn.init.normal_(parameter, std=0.3)
    codes = torch.tensor([[3.0, -20.0], [5.0, 40.0], [4.0, 70.0]], dtype=torch.float64)
    prior.initialise_from(codes)
    u = torch.randn(6, 2, dtype=torch.float64)
    z = codes.mean(0) + codes.std(0) * u
    expected = prior.flow(None).log_prob(u) - codes.std(0).log().sum()
    torch.testing.assert_close(prior(None).log_prob(z), expected, **EXACT)
    draws = prior(None).sample((2000,))
    assert draws[:, 1].std() > 5 * draws[:, 0].std()


# ---- Sequences of codes


def sequences() -> tuple[AutoregressivePrior, torch.Tensor]:
    prior = AutoregressivePrior(3, 4, width=8, layers=2, heads=2).double()
    for parameter in prior.parameters():
        nn.init.normal_(parameter, std=0.7)
    return prior, torch.tensor(list(itertools.product(range(4), repeat=3)))


def test_probabilities_of_all_sequences_sum_to_one_and_multiply_conditionals() -> None:
    prior, every = sequences()
    log_prob = prior(None).log_prob(every)
    assert float(log_prob.exp().sum()) == pytest.approx(1, abs=1e-12)
    # p(k_1), p(k_2 given k_1) and p(k_3 given k_1, k_2) from sums over the later codes
    table = log_prob.exp().reshape(4, 4, 4)
    by_hand = table.sum((1, 2)).log()[:, None, None] + torch.zeros_like(table)
    by_hand = by_hand + (table.sum(2) / table.sum((1, 2))[:, None]).log()[:, :, None]
    by_hand = by_hand + (table / table.sum(2)[:, :, None]).log()
    logits = prior.logits(every).log_softmax(-1)
    chosen = logits.gather(-1, every[..., None]).squeeze(-1)
    torch.testing.assert_close(by_hand.flatten(), chosen.sum(-1), **EXACT)
    torch.testing.assert_close(chosen[:, 0].reshape(4, 4, 4)[:, 0, 0], table.sum((1, 2)).log(), **EXACT)
    # leading dimensions, and the batch shape of a plate
    torch.testing.assert_close(prior(None).expand((2, 64)).log_prob(every), log_prob.expand(2, 64), **EXACT)


def test_draws_have_the_probabilities_of_the_sequences() -> None:
    prior, every = sequences()
    exact = prior(None).log_prob(every).exp().detach()
    draws = prior(None).expand((2,)).sample((10_000,))
    assert draws.shape == (10_000, 2, 3)
    place = (draws.reshape(-1, 3) * torch.tensor([16, 4, 1])).sum(-1)
    share = torch.bincount(place, minlength=64).double() / 20_000
    assert_close_in_sigmas(share, exact, (exact * (1 - exact) / 20_000).sqrt() + 1e-4, effect=1)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(InputError, match="heads needs to divide width"):
        AutoregressivePrior(3, 4, width=6, heads=4)
