"""Ranks of a guide: exact small cases, size and power of the test, and what each quantity can and cannot see."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from exact import A_BIAS, A_VARIANCE, A_WEIGHT, LinearGaussian
from scipy.stats import binom, binomtest, norm

from pvae.evaluate.calibration.rank_tests import RankNull, central_coverage, ranks_among, wilson_limits

SIMULATIONS, DRAWS, REPEATS = 2000, 99, 20


def test_gamma_is_the_smallest_two_sided_binomial_tail() -> None:
    ranks = np.array([0, 0, 3, 1, 2, 3, 3, 0])
    expected = 1.0
    for below in (1, 2, 3):
        count = int((ranks < below).sum())
        tails = binom.cdf(count, 8, below / 4), 1 - binom.cdf(count - 1, 8, below / 4)
        expected = min(expected, 2 * min(tails))
    assert RankNull(8, 3, repeats=100).gamma(ranks)[0] == pytest.approx(expected, rel=1e-12)


def test_ties_are_ranked_at_random() -> None:
    ranks = ranks_among(np.zeros(50_000), np.zeros((3, 50_000)), np.random.default_rng(0))
    counts = np.bincount(ranks, minlength=4)
    assert (np.abs(counts - 12_500) < 4.5 * np.sqrt(12_500)).all()
    assert ranks_among(np.array([0.5]), np.array([[0.0], [1.0], [0.2]]), np.random.default_rng(0)) == [2]


def test_uniform_ranks_are_rejected_at_the_level_and_lie_in_the_band() -> None:
    null = RankNull(500, 99, repeats=2000)
    ranks = np.random.default_rng(1).integers(0, 100, size=(4000, 500))
    rejected = (null.p_values(ranks) <= 0.05).mean()
    assert abs(rejected - 0.05) < 4.5 * np.sqrt(0.05 * 0.95 / 4000) + 2 * np.sqrt(0.05 * 0.95 / 2000)
    low, high = null.band()
    inside = ((null.distribution(ranks) >= low) & (null.distribution(ranks) <= high)).all(1).mean()
    assert abs(inside - 0.95) < 0.025


def test_central_intervals_cover_uniform_ranks_exactly() -> None:
    ranks = np.arange(100)
    assert [entry.share for entry in central_coverage(ranks, 99)] == pytest.approx([0.5, 0.8, 0.9, 0.95], abs=1e-12)
    assert central_coverage(np.array([2, 97]), 99, (0.95,))[0].share == pytest.approx(0.5)


def test_wilson_limits_are_those_of_scipy() -> None:
    interval = binomtest(41, 100).proportion_ci(0.95, "wilson")
    assert wilson_limits(0.41, 100) == pytest.approx((interval.low, interval.high), abs=1e-12)


KNOWN = LinearGaussian()
COVARIANCE = np.linalg.inv(KNOWN.precision)
FACTOR, GAIN = np.linalg.cholesky(COVARIANCE), COVARIANCE @ A_WEIGHT.T / A_VARIANCE
DIAGONAL = np.diag(1 / np.sqrt(np.diag(KNOWN.precision)))
SHIFT = 0.2 * np.sqrt(np.diag(COVARIANCE))
#: For each planted defect: the guide's mean given the posterior mean, and the factor of its covariance.
GUIDES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]] = {
    "none": (lambda mean: mean, FACTOR),
    "prior": (np.zeros_like, np.eye(2)),
    "narrow": (lambda mean: mean, 0.8 * FACTOR),
    "shifted": (lambda mean: mean + SHIFT, FACTOR),
    "no correlation": (lambda mean: mean, DIAGONAL),
}


def quantities(z: np.ndarray, x: np.ndarray, mean: np.ndarray, factor: np.ndarray) -> dict[str, np.ndarray]:
    """z0, z0 * z1, log q(z given x) and log p(x given z), up to constants; z has shape (..., simulations, 2)."""
    standard = np.linalg.solve(factor, (z - mean)[..., None])[..., 0]
    residual = x - A_BIAS - z @ A_WEIGHT.T
    return {
        "z0": z[..., 0],
        "z0 z1": z[..., 0] * z[..., 1],
        "log q": -np.square(standard).sum(-1),
        "log p(x given z)": -np.square(residual).sum(-1),
    }


def ranks_of_guide(defect: str, repeat: int) -> dict[str, np.ndarray]:
    """The ranks of each quantity for one planted defect, shape (simulations,)."""
    generator = np.random.default_rng([repeat, list(GUIDES).index(defect)])
    z = generator.standard_normal((SIMULATIONS, 2))
    x = z @ A_WEIGHT.T + A_BIAS + np.sqrt(A_VARIANCE) * generator.standard_normal((SIMULATIONS, 3))
    mean_of, factor = GUIDES[defect]
    mean = mean_of((x - A_BIAS) @ GAIN.T)
    draws = mean + generator.standard_normal((DRAWS, SIMULATIONS, 2)) @ factor.T
    at_truth, at_draws = quantities(z, x, mean, factor), quantities(draws, x, mean, factor)
    return {name: ranks_among(at_truth[name], at_draws[name], generator) for name in at_truth}


#: Which quantities see a defect: True in at least 19 of 20 repeats, False in at most 4 (a level of 5 % has 5 or more in
#: 0.3 % of the cases), None in between.
SEEN: dict[str, tuple[bool | None, ...]] = {
    "none": (False, False, False, False),
    "prior": (False, False, False, True),
    "narrow": (True, True, True, True),
    "shifted": (True, None, None, None),
    "no correlation": (False, None, None, False),
}


@pytest.mark.parametrize("defect", list(GUIDES))
def test_what_the_ranks_of_each_quantity_see(defect: str) -> None:
    null = RankNull(SIMULATIONS, DRAWS)
    ranks = [ranks_of_guide(defect, repeat) for repeat in range(REPEATS)]
    for name, seen in zip(ranks[0], SEEN[defect], strict=True):
        rejections = int((null.p_values(np.stack([by_name[name] for by_name in ranks])) <= 0.05).sum())
        if seen is not None:
            assert rejections >= 19 if seen else rejections <= 4, f"{defect}: {name} is rejected {rejections} times"


def test_a_narrow_guide_covers_as_little_as_the_normal_distribution_says() -> None:
    ranks = np.concatenate([ranks_of_guide("narrow", repeat)["z0"] for repeat in range(3)])
    for entry, golden in zip(central_coverage(ranks, DRAWS), (0.4105, 0.6948, 0.8118, 0.8831), strict=True):
        exact = 2 * norm.cdf(0.8 * norm.ppf(0.5 + entry.level / 2)) - 1
        assert golden == pytest.approx(exact, abs=6e-5)
        # 99 draws in the place of the exact quantiles change the coverage by less than 0.006.
        assert abs(entry.share - golden) < 4.5 * np.sqrt(golden * (1 - golden) / len(ranks)) + 0.006
