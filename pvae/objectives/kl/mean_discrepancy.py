"""The maximum mean discrepancy (MMD) between two samples, with its kernels.

Both estimates are unbiased: they leave out the pairs of a draw with itself.

Source: Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), lemma 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from pvae.checks import is_number
from pvae.errors import InputError
from pvae.weights.log_probs import sum_tensors

__all__ = ["KERNELS", "Scales", "kernel_values", "mmd", "mmd_of_labels", "require_kernel"]

#: kernels by name
KERNELS = ("gaussian", "imq")

#: the width of a kernel, or several widths of kernels that are added
Scales: TypeAlias = float | tuple[float, ...]

#: The largest number of differences between draws in memory at a time.
_NUMBERS_AT_A_TIME = 2**24


def kernel_values(squared_distance: Tensor, units: int, kernel: str, scale: Scales) -> Tensor:
    """Return the kernel at squared distances, in their shape; for several scales, the sum of the kernels.

    Args:
        squared_distance: d^2, of any shape.
        units: the number of units of a draw.
        kernel: ``"gaussian"``, exp(-d^2 / (2 s^2 units)); or ``"imq"``, c / (c + d^2) with c = 2 s^2 units.
        scale: s, the width of the kernel in the unit of a draw; or several widths.
    """
    widths = [2.0 * one_scale**2 * units for one_scale in _as_scales(scale)]
    if kernel == "gaussian":
        return sum_tensors([(-squared_distance / width).exp() for width in widths])
    return sum_tensors([width / (width + squared_distance) for width in widths])


def _as_scales(scale: Scales) -> tuple[float, ...]:
    return (float(scale),) if isinstance(scale, int | float) else tuple(scale)


def require_kernel(owner: str, kernel: object, scale: object) -> Scales:
    """Return the scale of a kernel as one float, or as a tuple of several.

    Args:
        owner: the name of the objective, for the error.
        kernel: a name of `KERNELS`.
        scale: a positive number, or several.

    Raises:
        InputError: for an unknown kernel, or a scale that is not a positive number.
    """
    scales = tuple(scale) if isinstance(scale, Sequence) and not isinstance(scale, str) else (scale,)
    is_positive = [is_number(one_scale) and 0 < one_scale < math.inf for one_scale in scales]
    if kernel not in KERNELS or not scales or not all(is_positive):
        raise InputError(
            f"{owner} needs kernel='gaussian' or 'imq', and scale > 0, one number or several; got kernel={kernel!r}, "
            f"scale={scale!r}."
        )
    numbers = tuple([float(one_scale) for one_scale in scales])
    return numbers if len(numbers) > 1 else numbers[0]


def _sum_of_pairs(first: _Sample, second: _Sample, kernel: str, scale: Scales) -> Tensor:
    """Return the sum of the kernel over pairs of draws, each times the weights of its draws, shape (...).

    Pairs of a draw with itself are left out. The pairs are computed in blocks of rows, so that without gradients the
    memory of many draws stays small.

    Args:
        first: one sample.
        second: the other sample, with the same number of draws.
        kernel: a name of `KERNELS`.
        scale: one width or several.
    """
    count, units = first.draws.shape[-2:]
    rows = max(1, _NUMBERS_AT_A_TIME // (second.draws.numel() or 1))
    column = torch.arange(count, device=first.draws.device)
    sums = []
    for start in range(0, count, rows):
        block = slice(start, start + rows)
        squared_distance = (first.draws[..., block, :].unsqueeze(-2) - second.draws.unsqueeze(-3)).square().sum(-1)
        values = kernel_values(squared_distance, units, kernel, scale)
        if first is second:
            values = values * (column[block, None] != column).to(values)
        if first.weights is not None:
            values = values * first.weights[block, None]
        if second.weights is not None:
            values = values * second.weights
        sums.append(values.sum((-1, -2)))
    return sum_tensors(sums)


@dataclass(frozen=True, eq=False)
class _Sample:
    """Draws of a distribution.

    Attributes:
        draws: shape (..., draws, units).
        weights: shape (draws,), or None for equal weights.
    """

    draws: Tensor
    weights: Tensor | None = None

    def total(self) -> Tensor | int:
        """Return the sum of the weights, which is the number of draws for equal weights."""
        return self.draws.shape[-2] if self.weights is None else self.weights.sum()

    def pairs(self) -> Tensor | int:
        """Return the sum over pairs of different draws of the product of their weights."""
        count = self.draws.shape[-2]
        if self.weights is None:
            return count * (count - 1)
        return self.weights.sum().square() - self.weights.square().sum()


def mmd(
    ours: Tensor, theirs: Tensor, kernel: str = "gaussian", scale: Scales = 1.0, weights: Tensor | None = None
) -> Tensor:
    """Return the unbiased estimate of the squared maximum mean discrepancy between two samples, shape (...).

    Args:
        ours: draws, shape (..., draws, units), at least 2.
        theirs: the same number of draws of the other distribution.
        kernel: ``"gaussian"``, exp(-d^2 / (2 s^2 units)); or ``"imq"``, c / (c + d^2) with c = 2 s^2 units.
        scale: s, the width of the kernel in the unit of a draw; for several widths, the kernel is the sum.
        weights: how often each draw of `ours` counts, shape (draws,); None for equal weights. With other weights, the
            estimate is a ratio of sums, which has a bias of order 1 / draws.

    Source: Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), lemma 6: pairs of a draw with itself are left out.
    """
    first, second = _Sample(ours, weights), _Sample(theirs)
    within = [_sum_of_pairs(sample, sample, kernel, scale) / sample.pairs() for sample in (first, second)]
    across = _sum_of_pairs(first, second, kernel, scale) / (first.total() * second.total())
    return sum_tensors(within) - 2.0 * across


def mmd_of_labels(kernel: Tensor, labels: Tensor) -> Tensor:
    """Return the unbiased estimate of the squared maximum mean discrepancy for several ways to split a joint sample.

    Args:
        kernel: the kernel of all pairs of draws of the joint sample, shape (draws, draws), with zeros on the diagonal.
        labels: 1 for a draw of the first sample, else 0, shape (draws, splits); each split has samples of the same
            sizes.

    Returns:
        Shape (splits,).
    """
    first_count = float(labels[:, 0].sum())
    second_count = len(kernel) - first_count
    from_first = (labels * kernel.sum(1, keepdim=True)).sum(0)
    within_first = (labels * (kernel @ labels)).sum(0)
    across = from_first - within_first
    within_second = kernel.sum() - 2.0 * from_first + within_first
    return (
        within_first / (first_count * (first_count - 1))
        + within_second / (second_count * (second_count - 1))
        - 2.0 * across / (first_count * second_count)
    )
