"""Draws of a gradient kept as sums over blocks, and statistics of them with jackknife errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

import torch
from torch import Tensor

from pvae.evaluate.base import Estimate

__all__ = ["Blocks", "Sums", "block_sizes", "largest_z", "limit_of_z", "statistics"]

BLOCKS, FEWEST, NUMBERS = 100, 10, 4 * 10**7


def block_sizes(draws: int, size: int) -> list[int]:
    """Return the sizes of the blocks that `draws` draws of `size` numbers are summed in.

    At most 100 blocks, and fewer (at least 10) where they would take more than some 300 MB: the fewer there are, the
    less exact is a standard error (7% of itself at 100, 24% at 10).
    """
    most = min(BLOCKS, max(FEWEST, NUMBERS // (2 * max(size, 1))))
    each = -(-draws // most)
    return [min(each, draws - start) for start in range(0, draws, each)]


@dataclass(frozen=True)
class Sums:
    """What is kept of a number of draws: sums of them and of their squares, about a fixed centre.

    Attributes:
        count: number of draws.
        first: sum of gradient minus centre, shape (coordinates,).
        second: sum of its squares, shape (coordinates,).
        seconds: that the draws took together.
        cosines: sum of the cosines of single draws with the centre, by group.
    """

    count: int
    first: Tensor
    second: Tensor
    seconds: float
    cosines: Mapping[str, float]

    def __sub__(self, other: Sums) -> Sums:
        return Sums(
            self.count - other.count,
            self.first - other.first,
            self.second - other.second,
            self.seconds - other.seconds,
            {name: value - other.cosines[name] for name, value in self.cosines.items()},
        )

    def of(self, group: str, place: slice) -> Sums:
        """Return the sums of one group's coordinates."""
        cosines = {group: self.cosines[group]}
        return Sums(self.count, self.first[place], self.second[place], self.seconds, cosines)

    def variance(self) -> Tensor:
        """Return the variance of each coordinate, shape (coordinates,); rounding of constant draws counts as none."""
        if self.count < 2:
            return torch.full_like(self.first, math.nan)
        variance = (self.second - self.first.square() / self.count) / (self.count - 1)
        rounding = 1e-14 * self.second / self.count
        return torch.where(variance > rounding, variance, 0.0)


@dataclass
class Blocks:
    """Blocks of draws of one objective's gradient, about a centre.

    Args:
        centre: the exact gradient or the best guess at it, shape (coordinates,), float64.
        groups: place of each group among the coordinates.
        keep: whether to keep every draw.
    """

    centre: Tensor
    groups: Mapping[str, slice]
    keep: bool = False
    sums: list[Sums] = field(default_factory=list)
    draws: list[Tensor] = field(default_factory=list)

    def add(self, drawn: Tensor, seconds: float) -> None:
        """Add a block of draws, shape (draws, coordinates), that took `seconds` together."""
        apart = drawn - self.centre
        cosines = {}
        for name, place in self.groups.items():
            centre, own = self.centre[place], drawn[:, place]
            norms = torch.linalg.vector_norm(own, dim=1) * torch.linalg.vector_norm(centre)
            cosines[name] = float(((own @ centre) / norms).sum())
        self.sums.append(Sums(len(drawn), apart.sum(0), apart.square().sum(0), seconds, cosines))
        if self.keep:
            self.draws.append(drawn.cpu())

    def total(self) -> Sums:
        """Return the sums of all blocks."""
        return Sums(
            sum(each.count for each in self.sums),
            torch.stack([each.first for each in self.sums]).sum(0),
            torch.stack([each.second for each in self.sums]).sum(0),
            sum(each.seconds for each in self.sums),
            {name: sum(each.cosines[name] for each in self.sums) for name in self.groups},
        )

    def mean(self) -> Tensor:
        """Return the mean gradient, shape (coordinates,)."""
        total = self.total()
        return self.centre + total.first / total.count

    def error_along(self, place: slice, direction: Tensor) -> float:
        """Return the standard error of the mean of one group along a vector, over the blocks."""
        along = torch.stack([each.first[place] @ direction / each.count for each in self.sums])
        return float(along.std()) / math.sqrt(len(along)) if len(along) > 1 else math.nan

    def estimates(self, group: str) -> dict[str, Estimate]:
        """Return every statistic of one group, with its standard error by the jackknife over blocks."""
        place = self.groups[group]
        centre, total = self.centre[place], self.total().of(group, place)
        times = [each.seconds / each.count for each in self.sums]
        whole = statistics(total, centre, group, _middle(times))
        rest = [
            statistics(total - each.of(group, place), centre, group, _middle(times[:left_out] + times[left_out + 1 :]))
            for left_out, each in enumerate(self.sums)
        ]
        errors = {name: _jackknife([each[name] for each in rest]) for name in whole}
        return {name: Estimate(value, errors[name], total.count) for name, value in whole.items()}


def _middle(times: list[float]) -> float:
    """The mean of the middle half: now and then a block waits for something that is not its own."""
    cut = len(times) // 4
    middle = sorted(times)[cut : len(times) - cut]
    return math.fsum(middle) / len(middle) if middle else math.nan


def statistics(sums: Sums, centre: Tensor, group: str, seconds: float) -> dict[str, float]:
    """Return the statistics of one group's draws.

    ``variance`` is the trace of the covariance of one draw. ``snr`` is |mean| over standard deviation, averaged over
    the coordinates that vary, and ``snr_whole`` the norm of the mean over the root of the trace; from the square of
    either 1/draws is taken off, since the mean of noise alone is not zero. ``cosine`` and ``cosine_mean`` are those of
    one draw and of the mean with the centre; ``bias`` is the mean's excess over the centre along it, in units of the
    centre; ``cost`` is variance times `seconds`, those of one gradient.
    """
    mean, variance = centre + sums.first / sums.count, sums.variance()
    trace, norm = float(variance.sum()), float(torch.linalg.vector_norm(centre))
    varies = variance > 0
    ratio = (mean.square()[varies] / variance[varies] - 1 / sums.count).clamp(min=0).sqrt()
    whole = float(mean.square().sum()) / trace - 1 / sums.count if trace > 0 else math.inf
    along = float(torch.linalg.vector_norm(mean)) * norm
    return {
        "bias": float(sums.first @ centre) / sums.count / norm**2 if norm > 0 else math.nan,
        "variance": trace,
        "snr": float(ratio.mean()) if bool(varies.any()) else math.inf,
        "snr_whole": math.sqrt(max(whole, 0.0)),
        "cosine": sums.cosines[group] / sums.count,
        "cosine_mean": float(mean @ centre) / along if along > 0 else math.nan,
        "seconds": seconds,
        "cost": trace * seconds,
    }


def _jackknife(rest: list[float]) -> float:
    """The standard error of a statistic from its values with one block left out each.

    Source: Efron & Stein, The Jackknife Estimate of Variance, Annals of Statistics 9 (1981), equation 1.3.
    """
    if len(rest) < 2 or not all(math.isfinite(each) for each in rest):
        return 0.0 if len(rest) > 1 and all(each == rest[0] for each in rest) else math.nan
    mean = math.fsum(rest) / len(rest)
    return math.sqrt((len(rest) - 1) / len(rest) * math.fsum((each - mean) ** 2 for each in rest))


def largest_z(apart: Tensor, variance: Tensor, rounding: float) -> float:
    """Return the largest |difference| in standard errors, over the coordinates.

    Args:
        apart: mean gradient minus reference, shape (coordinates,).
        variance: the variance of that difference, shape (coordinates,).
        rounding: the size of a difference that arithmetic alone can make: added to each standard error.
    """
    if not len(apart):
        return math.nan
    return float((apart.abs() / (variance.sqrt() + rounding)).max())


def limit_of_z(coordinates: int, draws: int, sigmas: float = 4.5) -> float:
    """Return what the largest of many |z| exceeds as rarely as a single normal one exceeds `sigmas` (Bonferroni).

    The standard errors are estimated, so Student's quantile stands for the normal one, by its expansion
    (Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.5).
    """
    normal = NormalDist()
    z = -normal.inv_cdf(normal.cdf(-sigmas) / max(coordinates, 1))
    freedom = max(draws - 1, 1)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
