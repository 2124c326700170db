"""Tests of ranks that are uniform if a guide is calibrated: statistic, null distribution, band and coverage."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

__all__ = ["RankNull", "central_coverage", "ranks_among", "wilson_limits"]

Ranks = NDArray[np.int64]
Floats = NDArray[np.float64]

#: A statistic is compared with the statistics of simulated ranks up to this relative rounding error.
_ROUNDING = 1e-9


def ranks_among(value: Floats, draws: Floats, generator: np.random.Generator) -> Ranks:
    """Return how many draws are below each value, with ties in random order.

    Args:
        value: the values that generated the data, shape (simulations,).
        draws: the draws of the guide, shape (draws, simulations).
        generator: the generator for the order of ties.

    Returns:
        Ranks from 0 to the number of draws, shape (simulations,).
    """
    below = (draws < value).sum(0)
    equal = (draws == value).sum(0)
    return np.asarray(below + generator.integers(0, equal + 1), dtype=np.int64)


class RankNull:
    """The distribution of the statistic gamma for ranks that are uniform on 0 to `draws`.

    Gamma is the smallest two-sided binomial tail probability of the empirical distribution function of the ranks over
    all points i / (draws + 1). A small gamma means that, at some point, the distribution function is far from that of
    uniform ranks.

    Args:
        simulations: the number of ranks, N.
        draws: the number of draws among which a value is ranked, L.
        repeats: the number of simulated sets of uniform ranks; a p-value is at least 1 / (repeats + 1).
        seed: the seed of the simulation.
    Source: Säilynoja, Bürkner & Vehtari, Graphical Test for Discrete Uniformity and its Applications in Goodness of Fit
        Evaluation and Multiple Sample Comparison, Statistics and Computing 32 (2022), sections 2 and 3.
    """

    def __init__(self, simulations: int, draws: int, repeats: int = 4000, seed: int = 0) -> None:
        from scipy.stats import binom  # slow to import

        self.simulations, self.draws = simulations, draws
        self.points = np.arange(1, draws + 1) / (draws + 1)
        counts = np.arange(simulations + 1)
        lower = binom.cdf(counts, simulations, self.points[:, None])
        upper = binom.sf(counts - 1, simulations, self.points[:, None])
        # The two-sided tail probability of each count at each point, shape (points, simulations + 1).
        self._tails = np.minimum(1.0, 2.0 * np.minimum(lower, upper))
        generator = np.random.default_rng([seed, simulations, draws])
        cells = generator.multinomial(simulations, np.full(draws + 1, 1.0 / (draws + 1)), size=repeats)
        self._null = np.sort(self._gamma_of_counts(cells.cumsum(1)[:, :-1]))

    def gamma(self, ranks: Ranks) -> Floats:
        """Return the statistic of each row of ranks, shape (rows,).

        Args:
            ranks: shape (rows, simulations), from 0 to `draws`.
        """
        return self._gamma_of_counts(self._counts(ranks))

    def p_values(self, ranks: Ranks) -> Floats:
        """Return the p-value of each row: (b + 1) / (repeats + 1) for b simulated statistics as small as its own.

        Args:
            ranks: shape (rows, simulations), from 0 to `draws`.
        """
        gamma = self.gamma(ranks)
        as_small = np.searchsorted(self._null, gamma * (1.0 + _ROUNDING), side="right")
        return np.asarray((as_small + 1) / (len(self._null) + 1), dtype=np.float64)

    def distribution(self, ranks: Ranks) -> Floats:
        """Return the empirical distribution function at `points`, shape (rows, draws).

        Args:
            ranks: shape (rows, simulations), from 0 to `draws`.
        """
        return self._counts(ranks) / self.simulations

    def band(self, level: float = 0.95) -> tuple[Floats, Floats]:
        """Return the lower and the upper limit of a simultaneous band for the distribution function, (draws,) each.

        The empirical distribution function of uniform ranks lies within the band everywhere with this probability.

        Args:
            level: the probability.
        """
        from scipy.stats import binom

        gamma = float(np.quantile(self._null, 1.0 - level))
        lower = binom.ppf(gamma / 2, self.simulations, self.points)
        upper = binom.isf(gamma / 2, self.simulations, self.points)
        return lower / self.simulations, upper / self.simulations

    def _counts(self, ranks: Ranks) -> Ranks:
        """Return how many ranks lie below each of 1 to `draws`, shape (rows, draws)."""
        rows = np.atleast_2d(ranks)
        cells = rows + (self.draws + 1) * np.arange(len(rows))[:, None]
        histogram = np.bincount(cells.ravel(), minlength=len(rows) * (self.draws + 1))
        below: Ranks = histogram.reshape(len(rows), -1).cumsum(1)[:, :-1]
        return below

    def _gamma_of_counts(self, counts: Ranks) -> Floats:
        return self._tails[np.arange(self.draws), counts].min(1)


@dataclass(frozen=True)
class Coverage:
    """How often the central interval of the guide covers the value that generated the data.

    Attributes:
        level: the probability that the guide gives to the interval.
        share: the share of simulations in which it covers the value.
        low: the lower limit of the 95 % interval of the share.
        high: the upper limit.
    """

    level: float
    share: float
    low: float
    high: float


def central_coverage(ranks: Ranks, draws: int, levels: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)) -> list[Coverage]:
    """Return the coverage of central intervals, with Wilson limits.

    A rank at the edge of an interval counts partly, so that the coverage of uniform ranks equals the level exactly.

    Args:
        ranks: shape (simulations,), from 0 to `draws`.
        draws: the number of draws among which a value is ranked.
        levels: the probabilities of the intervals.
    """
    coverages = []
    for level in levels:
        tail = 0.5 * (1.0 - level) * (draws + 1)
        # Rank r is the interval from r to r + 1 of the draws + 1 equal parts.
        covered = np.clip(np.minimum(ranks + 1 - tail, draws + 1 - tail - ranks), 0.0, 1.0)
        share = float(covered.mean())
        coverages.append(Coverage(level, share, *wilson_limits(share, len(ranks))))
    return coverages


def wilson_limits(share: float, count: int) -> tuple[float, float]:
    """Return the limits of the Wilson score interval of a probability, which holds it with probability 0.95.

    Args:
        share: the observed share, from 0 to 1.
        count: the number of observations.
    Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927).
    """
    z = float(ndtri(0.975))
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    width = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, centre - width), min(1.0, centre + width)
