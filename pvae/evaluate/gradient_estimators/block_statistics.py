"""Draws of a gradient, kept as sums over blocks of draws; statistics of them with jackknife errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

import torch
from torch import Tensor

from pvae.evaluate.base import Estimate

__all__ = ["GradientBlocks", "GradientSums", "block_sizes", "group_statistics", "largest_z", "limit_of_z"]

_MOST_BLOCKS, _FEWEST_BLOCKS = 100, 10
#: The limit for one normal z in `limit_of_z`.
_SIGMAS = 4.5
#: The largest number of float64 values that all blocks may hold.
_MOST_VALUES = 4 * 10**7


def block_sizes(draws: int, coordinates: int) -> list[int]:
    """Return the number of draws in each block.

    There are at most 100 blocks. There are fewer, but at least 10, if 100 blocks would take more than about 300 MB. The
    relative error of a standard error is 7% for 100 blocks and 24% for 10.

    Args:
        draws: the total number of draws.
        coordinates: the number of coordinates of one draw.
    """
    most = min(_MOST_BLOCKS, max(_FEWEST_BLOCKS, _MOST_VALUES // (2 * max(coordinates, 1))))
    size = -(-draws // most)
    return [min(size, draws - start) for start in range(0, draws, size)]


@dataclass(frozen=True)
class GradientSums:
    """Sums over a number of draws of a gradient, about a fixed centre.

    Attributes:
        count: the number of draws.
        deviations: the sum of gradient minus centre, shape (coordinates,).
        squares: the sum of the squares of gradient minus centre, shape (coordinates,).
        seconds: the time of all these draws.
        cosines: for each group the sum of the cosines between single draws and the centre.
    """

    count: int
    deviations: Tensor
    squares: Tensor
    seconds: float
    cosines: Mapping[str, float]

    def __sub__(self, part: GradientSums) -> GradientSums:
        return GradientSums(
            self.count - part.count,
            self.deviations - part.deviations,
            self.squares - part.squares,
            self.seconds - part.seconds,
            {name: value - part.cosines[name] for name, value in self.cosines.items()},
        )

    def for_group(self, group: str, columns: slice) -> GradientSums:
        """Return the sums of one group.

        Args:
            group: the name of the group.
            columns: its slice of the coordinates.
        """
        cosines = {group: self.cosines[group]}
        return GradientSums(self.count, self.deviations[columns], self.squares[columns], self.seconds, cosines)

    def variance(self) -> Tensor:
        """Return the variance of each coordinate, shape (coordinates,); 0 if it is a rounding error."""
        if self.count < 2:
            return torch.full_like(self.deviations, math.nan)
        variance = (self.squares - self.deviations.square() / self.count) / (self.count - 1)
        rounding = 1e-14 * self.squares / self.count
        return torch.where(variance > rounding, variance, 0.0)


@dataclass
class GradientBlocks:
    """Blocks of draws of one objective's gradient, summed about a centre.

    Args:
        centre: the exact gradient or an estimate of it, shape (coordinates,), float64.
        groups: the slice of the coordinates of each group.
        keep: whether to keep every draw.
        sums: the sums of each block.
        draws: the draws of each block, shape (draws, coordinates), if they are kept.
    """

    centre: Tensor
    groups: Mapping[str, slice]
    keep: bool = False
    sums: list[GradientSums] = field(default_factory=list)
    draws: list[Tensor] = field(default_factory=list)

    def add(self, gradients: Tensor, seconds: float) -> None:
        """Add a block of draws.

        Args:
            gradients: the draws, shape (draws, coordinates).
            seconds: the time of all draws of the block.
        """
        deviations = gradients - self.centre
        cosines = {}
        for name, columns in self.groups.items():
            centre, group_gradients = self.centre[columns], gradients[:, columns]
            norms = torch.linalg.vector_norm(group_gradients, dim=1) * torch.linalg.vector_norm(centre)
            cosines[name] = float(((group_gradients @ centre) / norms).sum())
        self.sums.append(GradientSums(len(gradients), deviations.sum(0), deviations.square().sum(0), seconds, cosines))
        if self.keep:
            self.draws.append(gradients.cpu())

    def total(self) -> GradientSums:
        """Return the sums over all blocks."""
        return GradientSums(
            sum(block.count for block in self.sums),
            torch.stack([block.deviations for block in self.sums]).sum(0),
            torch.stack([block.squares for block in self.sums]).sum(0),
            sum(block.seconds for block in self.sums),
            {name: sum(block.cosines[name] for block in self.sums) for name in self.groups},
        )

    def mean(self) -> Tensor:
        """Return the mean gradient, shape (coordinates,)."""
        total = self.total()
        return self.centre + total.deviations / total.count

    def error_along(self, columns: slice, direction: Tensor) -> float:
        """Return the standard error of the mean gradient along a direction, estimated over the blocks.

        Args:
            columns: the slice of the coordinates of one group.
            direction: a vector of length 1, shape (group coordinates,).
        """
        means = torch.stack([block.deviations[columns] @ direction / block.count for block in self.sums])
        return float(means.std()) / math.sqrt(len(means)) if len(means) > 1 else math.nan

    def estimates(self, group: str) -> dict[str, Estimate]:
        """Return every statistic of `group_statistics` for one group, with its standard error over the blocks."""
        columns = self.groups[group]
        centre = self.centre[columns]
        total = self.total().for_group(group, columns)
        times = [block.seconds / block.count for block in self.sums]
        values = group_statistics(total, centre, group, _mean_of_middle_half(times))
        without_one_block = []
        for index, block in enumerate(self.sums):
            sums = total - block.for_group(group, columns)
            seconds = _mean_of_middle_half(times[:index] + times[index + 1 :])
            without_one_block.append(group_statistics(sums, centre, group, seconds))
        errors = {name: _jackknife_error([values[name] for values in without_one_block]) for name in values}
        return {name: Estimate(value, errors[name], total.count) for name, value in values.items()}


def _mean_of_middle_half(times: list[float]) -> float:
    """Return the mean of the middle half of the times, because a block may be slowed down by another process."""
    cut = len(times) // 4
    middle = sorted(times)[cut : len(times) - cut]
    return math.fsum(middle) / len(middle) if middle else math.nan


def group_statistics(sums: GradientSums, centre: Tensor, group: str, seconds: float) -> dict[str, float]:
    """Return the statistics of one group's draws, by name.

    - ``bias``: the length by which the mean exceeds the centre, along the centre, divided by the norm of the centre.
    - ``variance``: the trace of the covariance of one draw.
    - ``snr``: |mean| over standard deviation, averaged over the coordinates that vary.
    - ``snr_whole``: the norm of the mean over the square root of the trace.
    - ``cosine``, ``cosine_mean``: the cosine between the centre and one draw, and between the centre and the mean.
    - ``seconds``: the time of one gradient.
    - ``cost``: variance times seconds.

    1/draws is subtracted from the square of both ratios, because the mean of pure noise is not zero.

    Args:
        sums: the sums of the group, with G coordinates.
        centre: the centre of the sums, shape (G,).
        group: the name of the group.
        seconds: the time of one gradient.
    """
    mean, variance = centre + sums.deviations / sums.count, sums.variance()
    trace, norm = float(variance.sum()), float(torch.linalg.vector_norm(centre))
    varies = variance > 0
    ratios = (mean.square()[varies] / variance[varies] - 1 / sums.count).clamp(min=0).sqrt()
    squared_ratio = float(mean.square().sum()) / trace - 1 / sums.count if trace > 0 else math.inf
    norms = float(torch.linalg.vector_norm(mean)) * norm
    return {
        "bias": float(sums.deviations @ centre) / sums.count / norm**2 if norm > 0 else math.nan,
        "variance": trace,
        "snr": float(ratios.mean()) if bool(varies.any()) else math.inf,
        "snr_whole": math.sqrt(max(squared_ratio, 0.0)),
        "cosine": sums.cosines[group] / sums.count,
        "cosine_mean": float(mean @ centre) / norms if norms > 0 else math.nan,
        "seconds": seconds,
        "cost": trace * seconds,
    }


def _jackknife_error(values: list[float]) -> float:
    """Return the standard error of a statistic.

    Source: Efron & Stein, The Jackknife Estimate of Variance, Annals of Statistics 9 (1981), equation 1.3.

    Args:
        values: the statistic without the first block, without the second block, and so on.
    """
    if len(values) < 2:
        return math.nan
    if not all(math.isfinite(value) for value in values):
        return 0.0 if all(value == values[0] for value in values) else math.nan
    mean = math.fsum(values) / len(values)
    return math.sqrt((len(values) - 1) / len(values) * math.fsum((value - mean) ** 2 for value in values))


def largest_z(differences: Tensor, variance: Tensor, rounding: float) -> float:
    """Return the largest |difference| in standard errors, over the coordinates.

    Args:
        differences: mean gradient minus reference, shape (coordinates,).
        variance: the variance of that difference, shape (coordinates,).
        rounding: the largest difference that rounding errors can cause; it is added to each standard error.
    """
    if not len(differences):
        return math.nan
    return float((differences.abs() / (variance.sqrt() + rounding)).max())


def limit_of_z(coordinates: int, draws: int) -> float:
    """Return the limit that the largest of many |z| exceeds with the same probability as one normal z exceeds 4.5.

    This is the Bonferroni bound. The standard errors are estimated, so the normal quantile is replaced by Student's
    quantile, by its expansion (Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.5).

    Args:
        coordinates: the number of |z|.
        draws: the number of draws from which the standard errors are estimated.
    """
    normal = NormalDist()
    z = -normal.inv_cdf(normal.cdf(-_SIGMAS) / max(coordinates, 1))
    freedom = max(draws - 1, 1)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
