"""Coordinates in which the arithmetic is safe: shifted by the mean and scaled by the standard deviation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from pvae.em.base import Mixture
from pvae.em.row_sources import Rows
from pvae.errors import InputError

__all__ = ["Columns", "Frame", "check_finite", "frame_of", "observed_share", "survey"]

#: Standardised data up to this size are kept; larger data are standardised again in each pass.
KEPT_BYTES = 24 << 20
#: The square of a larger value overflows float64.
LARGEST = 1e150
Reduce = Callable[[Tensor], Tensor]
Chunk = tuple[Tensor, Tensor | None]


class Preparing(Protocol):
    """What prepares chunks for its own use, in the same way each time."""

    dtype: torch.dtype

    @property
    def chunk(self) -> int:
        """How many data make a chunk."""

    @property
    def width(self) -> int:
        """How many numbers stand for a datum."""

    def prepare(self, u: Tensor, scratch: Any = None) -> Tensor:
        """Return a chunk, (features, batch), as (width, batch), in the scratch where there is one."""


@dataclass(frozen=True)
class Frame:
    """Standardised coordinates u = (x - shift) / scale.

    Attributes:
        shift: (features,), float64.
        scale: (features,), float64, positive; one number for all features where the family is spherical.
        spread: mean square of each u, (features,): 1, and 0 for a constant feature.
        variance: variance of each feature of x, (features,).
        observed: share of the data, by weight, in which each feature is observed, (features,).
        weight: summed sample weights.
        count: number of rows.
    """

    shift: Tensor
    scale: Tensor
    spread: Tensor
    variance: Tensor
    observed: Tensor
    weight: float
    count: int

    def log_scale(self) -> float:
        """Return what log p(u) exceeds log p(x) by, nats per datum; a missing value has no density."""
        return float((self.observed * self.scale.log()).sum())

    def inside(self, mixture: Mixture) -> Mixture:
        """Return a mixture of x as one of u."""
        return self._changed(mixture, (mixture.means - self.shift) / self.scale, 1 / self.scale)

    def outside(self, mixture: Mixture) -> Mixture:
        """Return a mixture of u as one of x."""
        return self._changed(mixture, mixture.means * self.scale + self.shift, self.scale)

    def _changed(self, mixture: Mixture, means: Tensor, by: Tensor) -> Mixture:
        family = mixture.family
        return replace(
            mixture,
            means=means,
            covariances=family.scaled(mixture.covariances, by),
            whitening=family.scaled_whitening(mixture.whitening, by),
            roots=family.scaled_whitening(mixture.roots, 1 / by),
        )


def frame_of(mixture: Mixture) -> Frame:
    """Return the frame of data that follow a mixture."""
    weights = mixture.weights / mixture.weights.sum()
    shift = weights @ mixture.means
    dense = mixture.family.dense(mixture.covariances, mixture.components, mixture.features)
    variance = weights @ (dense.diagonal(dim1=1, dim2=2) + (mixture.means - shift).square())
    return _frame(shift, variance, mixture.family.name == "spherical", torch.ones_like(shift), 1.0, 1)


def _frame(shift: Tensor, variance: Tensor, uniform: bool, observed: Tensor, weight: float, count: int) -> Frame:
    # Below this the deviations are what rounding left of the mean.
    constant = variance <= (8 * torch.finfo(torch.float64).eps * shift).square()
    scale = variance.sqrt().where(~constant, 1.0)
    if uniform:
        varying = variance[~constant]
        common = varying.mean().sqrt() if len(varying) else scale.new_ones(())
        scale = common.expand_as(scale).contiguous()
    spread = (variance / scale.square()).where(~constant, 0.0)
    return Frame(shift, scale, spread, variance.where(~constant, 0.0), observed, weight, count)


def survey(rows: Rows, *, uniform: bool, missing: bool, reduce: Reduce = lambda x: x) -> Frame:
    """Return the frame of data, after two passes over it.

    Args:
        rows: the data.
        uniform: one scale for all features.
        missing: NaN stands for a missing value, and is left out.
        reduce: sums a float64 tensor over processes.

    Raises:
        InputError: for values that are not finite (NaN may stand for a missing one), or too large to square; the
            first is named by row and column.
    """
    size = max(256, (1 << 20) // (8 * rows.features))
    total = torch.zeros(2, rows.features, dtype=torch.float64, device=rows.device)
    seen = 0
    for x, weights in rows.chunks(size):
        total += _sums(x.double(), weights, seen, missing)
        seen += len(x)
    counts = reduce(torch.tensor([float(seen)], dtype=torch.float64, device=rows.device))
    total = reduce(total)
    _check_observed(total[1])
    shift = total[0] / total[1]
    squares = torch.zeros_like(shift)
    weight = torch.zeros((), dtype=torch.float64, device=rows.device)
    for x, weights in rows.chunks(size):
        deviations = (x.double() - shift).square_()
        deviations = deviations.nan_to_num_(0.0) if missing else deviations
        squares += deviations.sum(0) if weights is None else weights @ deviations
        weight += len(x) if weights is None else weights.sum()
    variance = reduce(squares) / total[1]
    weight = reduce(weight)
    return _frame(shift, variance, uniform, total[1] / weight, float(weight), int(counts))


def observed_share(rows: Rows) -> Tensor:
    """Return the share of the data, by weight, in which each feature is observed, (features,)."""
    share = torch.zeros(2, rows.features, dtype=torch.float64, device=rows.device)
    for x, weights in rows.chunks(1 << 14):
        w = torch.ones(len(x), dtype=torch.float64, device=x.device) if weights is None else weights
        share += torch.stack([w @ (~x.isnan()).double(), w.sum().expand(rows.features)])
    return share[0] / share[1]


def check_finite(x: Tensor, *, missing: bool) -> None:
    """Raise InputError where values are not finite, as `survey` does."""
    size = max(256, (1 << 20) // (8 * x.shape[1]))
    for start in range(0, len(x), size):
        _sums(x[start : start + size].double(), None, start, missing)


def _sums(x: Tensor, weights: Tensor | None, start: int, missing: bool) -> Tensor:
    """Return the weighted sums and counts of the observed values of a chunk, (2, features)."""
    largest = x.abs().amax(0)
    if bool((largest < LARGEST).all()):
        sums = x.sum(0) if weights is None else weights @ x
        count = torch.as_tensor(len(x) if weights is None else weights.sum(), dtype=x.dtype, device=x.device)
        return torch.stack([sums, count.expand_as(sums)])
    absent = x.isnan()
    wrong = ~(x.abs() < LARGEST) & ~(absent & missing)
    if bool(wrong.any()):
        raise _refused(x, wrong, start, missing)
    shares = (~absent).double() if weights is None else weights.unsqueeze(1) * ~absent
    return torch.stack([(x.nan_to_num(0.0) * shares).sum(0), shares.sum(0)])


def _refused(x: Tensor, wrong: Tensor, start: int, missing: bool) -> InputError:
    row, column = wrong.nonzero()[0].tolist()
    nan, infinite = int((x.isnan() & wrong).sum()), int(x.isinf().sum())
    large = int(wrong.sum()) - nan - infinite
    kinds = [f"{n} {what}" for n, what in ((nan, "NaN"), (infinite, "infinity"), (large, "too large")) if n]
    advice = "missing='marginalise' takes NaN as missing" if nan else f"values below {LARGEST:g} in size can be squared"
    return InputError(
        f"X needs finite values; rows {start} to {start + len(x) - 1} hold {', '.join(kinds)}, the first in row "
        f"{start + row}, column {column} ({float(x[row, column]):g}); remove or rescale them, or: {advice}."
    )


def _check_observed(counts: Tensor) -> None:
    empty = (counts <= 0).nonzero().flatten().tolist()
    if empty:
        raise InputError(f"Each feature needs a value of positive weight; column {empty[0]} has none: leave it out.")


class Columns:
    """The data in a frame, as columns of chunks; kept between passes where they are small.

    Args:
        rows: the data.
        frame: the coordinates.
    """

    def __init__(self, rows: Rows, frame: Frame) -> None:
        self.rows, self.frame = rows, frame
        self._kept: dict[Any, list[Chunk]] = {}
        self._scratch: dict[Any, dict[Any, Any]] = {}

    def chunks(self, size: int, dtype: torch.dtype) -> Iterator[Chunk]:
        """Yield u, (features, at most size), and sample weights, both of `dtype`."""
        yield from self._through((size, dtype), self._standardised(size, dtype), self.rows.features, dtype)

    def prepared(self, route: Preparing) -> Iterator[Chunk]:
        """Yield the data as a route takes them, (width, at most its chunk), and sample weights."""
        key = type(route), route.chunk, route.dtype
        scratch = None if self._fits(route.width, route.dtype) else self._scratch.setdefault(key, {})
        made = ((route.prepare(u, scratch), weights) for u, weights in self.chunks(route.chunk, route.dtype))
        yield from self._through(key, made, route.width, route.dtype)

    def _through(self, key: Any, made: Iterator[Chunk], width: int, dtype: torch.dtype) -> Iterator[Chunk]:
        """Yield chunks, and keep them for the next pass in place of what was kept before, where they are few."""
        if key in self._kept:
            yield from self._kept[key]
            return
        if not self._fits(width, dtype):
            yield from made
            return
        kept = []
        for chunk in made:
            kept.append(chunk)
            yield chunk
        self._kept = {key: kept}

    def _fits(self, width: int, dtype: torch.dtype) -> bool:
        room = KEPT_BYTES if self.rows.device.type == "cpu" else torch.cuda.mem_get_info(self.rows.device)[0] // 2
        return self.frame.count * width * dtype.itemsize <= room

    def _standardised(self, size: int, dtype: torch.dtype) -> Iterator[Chunk]:
        shift, factor = self.frame.shift.unsqueeze(1), self.frame.scale.reciprocal().unsqueeze(1)
        for x, weights in self.rows.chunks(size):
            # In float64 whatever the data's type: an offset large against the spread would else eat the digits.
            u = torch.empty(x.shape[1], x.shape[0], dtype=torch.float64, device=x.device)
            torch.sub(x.mT, shift, out=u)
            yield u.mul_(factor).to(dtype), None if weights is None else weights.to(dtype)
