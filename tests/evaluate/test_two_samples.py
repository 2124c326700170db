"""The permutation test: its statistic by hand, its p-value by all relabellings, its level and power."""

from __future__ import annotations

import itertools
import math

import exact
import pyro
import pyro.distributions as dist
import pytest
import torch
from stats import assert_close_in_sigmas

from pvae.errors import InputError
from pvae.evaluate import aggregate_test, mmd_test
from pvae.programs.base import pair

WIDTHS = (0.5, 1.0)


def by_hand(first, second):
    """The unbiased squared discrepancy, pair by pair."""

    def kernel(a, b):
        distance = float((a - b).square().sum())
        return sum(math.exp(-distance / (2 * width**2 * len(a))) for width in WIDTHS)

    def within(x):
        return sum(kernel(a, b) for a, b in itertools.permutations(x, 2)) / (len(x) * (len(x) - 1))

    across = sum(kernel(a, b) for a in first for b in second) / (len(first) * len(second))
    return within(first) + within(second) - 2 * across


def test_statistic_and_p_value_agree_with_all_relabellings():
    torch.manual_seed(1)
    first, second = torch.randn(4, 2).double(), torch.randn(3, 2).double() + 1.0
    found = mmd_test(first, second, widths=WIDTHS, permutations=4000)
    observed = by_hand(first, second)
    assert found.statistic == pytest.approx(observed, rel=1e-12) and found.counts == (4, 3)
    joined = torch.cat([first, second])
    every = [
        by_hand(joined[list(chosen)], joined[[each for each in range(7) if each not in chosen]])
        for chosen in itertools.combinations(range(7), 4)
    ]
    share = sum(each >= observed - 1e-12 for each in every) / len(every)
    assert 0.05 < share < 0.95
    error = math.sqrt(share * (1 - share) / 4000)
    assert_close_in_sigmas(torch.tensor(found.p_value), share, torch.tensor(error))


def test_statistic_has_the_mean_of_the_exact_discrepancy_of_two_normals():
    """E k(x, y) for x - y ~ N(m, 2) under a Gaussian kernel of width 1 is sqrt(1/3) exp(-m^2 / 6)."""
    torch.manual_seed(0)
    draws = [mmd_test(torch.randn(40, 1), torch.randn(30, 1) + 0.8, widths=(1.0,), permutations=1) for _ in range(200)]
    found = torch.tensor([each.statistic for each in draws])
    expected = 2 / math.sqrt(3) * (1 - math.exp(-(0.8**2) / 6))
    assert_close_in_sigmas(found.mean(), expected, found.std() / math.sqrt(len(found)))


def test_level_is_held_and_a_shift_is_found():
    torch.manual_seed(0)
    equal = [mmd_test(torch.randn(30, 2), torch.randn(30, 2), permutations=99).p_value for _ in range(200)]
    rejected = sum(each <= 0.05 for each in equal) / 200
    assert_close_in_sigmas(torch.tensor(rejected), 0.05, torch.tensor(math.sqrt(0.05 * 0.95 / 200)))
    assert mmd_test(torch.randn(300, 2), torch.randn(300, 2) + 0.5).p_value == 1 / 1001


def test_aggregate_of_the_exact_posterior_is_the_prior_and_a_narrower_one_is_not():
    torch.manual_seed(0)
    z = torch.randn(800, 2).double()
    x = z * 2.0 + torch.randn(800, 2).double()

    def latent(scale):
        def program(x):
            with pyro.plate("data", len(x)):
                # p(z given x) of z ~ N(0, 1), x ~ N(2 z, 1) is N(0.4 x, 0.2)
                pyro.sample("z", dist.Normal(0.4 * x, scale * math.sqrt(0.2)).to_event(1))

        return program

    def prior(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(2.0 * z, 1.0).to_event(1), obs=x)

    assert aggregate_test(pair(prior, latent(1.0)), {"x": x}, permutations=200).p_value > 0.05
    assert aggregate_test(pair(prior, latent(0.0001)), {"x": x}, permutations=200).p_value < 0.01


def test_what_is_no_pair_of_samples_is_refused():
    with pytest.raises(InputError, match="same units"):
        mmd_test(torch.randn(5, 2), torch.randn(5, 3))
    with pytest.raises(InputError, match="at least 2 draws"):
        mmd_test(torch.randn(1, 2), torch.randn(5, 2))
    with pytest.raises(InputError, match="widths needs at least one positive number"):
        mmd_test(torch.randn(5, 2), torch.randn(5, 2), widths=())
    with pytest.raises(InputError, match="latent site of real values"):
        aggregate_test(exact.DiscreteModel(), {"x": torch.zeros(4).long()})
