"""The difference in log evidence between two rows that are known from both sides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pvae.comparison.table.row_difference import RowDifference, estimate_difference

__all__ = ["Bracket", "BracketDifference"]


@dataclass(frozen=True)
class Bracket:
    """Lower and upper estimates of the log evidence of a row, float64, shape (seeds, data), in nats.

    Attributes:
        lower: the lower estimates.
        upper: the upper estimates. If the upper estimate of a training is below its lower estimate in the mean over
            data, it is replaced by the lower estimate, so the ends of a bracket are always in order.
    """

    lower: Tensor
    upper: Tensor

    @classmethod
    def of(cls, lower: Tensor, upper: Tensor) -> Bracket:
        """Return the bracket of two estimates, shape (seeds, data)."""
        is_turned = upper.mean(-1, keepdim=True) < lower.mean(-1, keepdim=True)
        return cls(lower, torch.where(is_turned, lower, upper))


@dataclass(frozen=True)
class BracketDifference:
    """The difference of a row to the first row, from both sides, paired by seed and datum.

    Attributes:
        row: the bracket of the row.
        first: the bracket of the first row, of the same seeds and data.
    """

    row: Bracket
    first: Bracket

    @cached_property
    def lower(self) -> RowDifference:
        """The lower estimate of the row minus the upper estimate of the first row: the least difference."""
        return estimate_difference(self.row.lower - self.first.upper)

    @cached_property
    def upper(self) -> RowDifference:
        """The upper estimate of the row minus the lower estimate of the first row: the largest difference."""
        return estimate_difference(self.row.upper - self.first.lower)

    def middle(self) -> Tensor:
        """Return the differences of the middles of the brackets, shape (seeds, data)."""
        return 0.5 * (self.row.lower + self.row.upper - self.first.lower - self.first.upper)

    @property
    def p_value(self) -> float:
        """The p-value of the hypothesis that the difference is 0; 1 if the bracket of the difference contains 0.

        The row is better only if the lower end of the difference is above 0, and worse only if its upper end is below
        0. Each is a one-sided test, and the p-value is twice the smaller one. If the estimates are bounds, the
        probability that it is at most the level is at most the level.
        """
        if math.isnan(float(self.lower.p_value)) or math.isnan(float(self.upper.p_value)):
            return math.nan
        if float(self.lower.value) > 0:
            return float(self.lower.p_value)
        return float(self.upper.p_value) if float(self.upper.value) < 0 else 1.0
