"""The outcomes behind one row of the table, and statistics of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pvae.comparison.base import Outcome
from pvae.comparison.cells.scored_data import describe_mismatch, read_scored_data
from pvae.comparison.cells.training_summary import read_score
from pvae.comparison.table.bracket_difference import Bracket, BracketDifference
from pvae.comparison.table.row_difference import RowDifference, estimate_difference
from pvae.evaluate import Estimate

__all__ = ["RowOutcomes", "Statistic", "mean_over_seeds", "read_margin", "stack_pointwise"]


@dataclass(frozen=True)
class RowOutcomes:
    """The finished outcomes of one row, and of the first row, with which it is compared.

    Attributes:
        finished: the outcomes of the seeds that finished; at least one.
        first_row: the finished outcomes of the first row; empty for the first row itself.
        rank: rank of the row by ``az.compare``, 1 is best; None if there is none.
    """

    finished: Sequence[Outcome]
    first_row: Sequence[Outcome] = ()
    rank: int | None = None

    def pointwise(self, name: str) -> Tensor | None:
        """Return a pointwise value of all seeds, shape (seeds, data), float64; None if a seed does not have it.

        Args:
            name: a name of `Outcome.pointwise`, such as ``log_evidence``.
        """
        return stack_pointwise(self.finished, name)

    @cached_property
    def difference(self) -> RowDifference | None:
        """The difference to the first row with its errors and its p-value; None if there is no `paired_difference`."""
        differences = self.paired_difference()
        return None if differences is None else estimate_difference(differences)

    def paired_difference(self) -> Tensor | None:
        """Return log evidence minus that of the first row, paired by seed and datum, shape (shared seeds, data).

        The estimated bias of both is removed if it is known in both rows; for brackets, the middles are compared. The
        difference is None for the first row, if no seed finished in both rows, if one has no log evidence, and if the
        evidences cannot be compared.
        """
        if self.reason_of_mismatch:
            return None
        if self.bracket_difference is not None:
            return self.bracket_difference.middle()
        members, first_members = self._shared_members
        values, first_values = (stack_pointwise(group, "log_evidence") for group in (members, first_members))
        if values is None or first_values is None:
            return None
        if not self.removes_bias:
            return values - first_values
        return _corrected(members, values) - _corrected(first_members, first_values)

    @cached_property
    def bracket_difference(self) -> BracketDifference | None:
        """The difference to the first row from both sides; None if one of the rows has no upper estimates."""
        if self.reason_of_mismatch:
            return None
        brackets = [_bracket(group) for group in self._shared_members]
        row, first = brackets
        return None if row is None or first is None else BracketDifference(row, first)

    @property
    def reason_of_mismatch(self) -> str:
        """Why the log evidence cannot be compared with that of the first row; "" if it can, or if there is none."""
        if not self.first_row:
            return ""
        return describe_mismatch(*(read_scored_data(group[0].scores) for group in (self.finished, self.first_row)))

    @cached_property
    def removes_bias(self) -> bool:
        """Whether the bias of the log evidence is known for all trainings of the difference."""
        return all(stack_pointwise(group, "bias") is not None for group in self._shared_members)

    @cached_property
    def _shared_members(self) -> tuple[list[Outcome], list[Outcome]]:
        """The outcomes of the seeds that finished in both rows, in the same order: of the row, then the first one."""
        outcomes = {outcome.cell.seed: outcome for outcome in self.finished}
        first_outcomes = {outcome.cell.seed: outcome for outcome in self.first_row}
        seeds = sorted(outcomes.keys() & first_outcomes.keys())
        return [outcomes[seed] for seed in seeds], [first_outcomes[seed] for seed in seeds]

    def bias_margin(self) -> float | None:
        """Return the mean margin of the bias over seeds, in nats; None if it is not known for a seed."""
        margins = [read_margin(outcome.scores) for outcome in self.finished]
        known = [margin for margin in margins if margin is not None]
        return sum(known) / len(known) if known and len(known) == len(margins) else None


def _bracket(members: Sequence[Outcome]) -> Bracket | None:
    lower, upper = (stack_pointwise(members, name) for name in ("log_evidence", "upper"))
    return None if lower is None or upper is None else Bracket.of(lower, upper)


def _corrected(members: Sequence[Outcome], evidence: Tensor) -> Tensor:
    """Return a log evidence without its estimated bias, shape (seeds, data)."""
    bias = stack_pointwise(members, "bias")
    return evidence if bias is None else evidence - bias


def read_margin(scores: Mapping[str, Any]) -> float | None:
    """Return the margin of the bias of the log evidence in ``evaluation.json``; None if there is none.

    Args:
        scores: the content of ``evaluation.json``.
    """
    bias = scores.get("bias")
    margin = bias.get("margin") if isinstance(bias, Mapping) else None
    return None if margin is None else float(margin)


Statistic = Callable[[RowOutcomes], Any]


def stack_pointwise(outcomes: Sequence[Outcome], name: str) -> Tensor | None:
    """Return a pointwise value of several outcomes, shape (outcomes, data), float64.

    It is None if there are no outcomes, or if one does not have the value.

    Args:
        outcomes: finished outcomes.
        name: a name of `Outcome.pointwise`, such as ``log_evidence``.
    """
    values = [outcome.pointwise.get(name) for outcome in outcomes]
    known = [value.double() for value in values if value is not None]
    return torch.stack(known) if known and len(known) == len(values) else None


def mean_over_seeds(score: str) -> Statistic:
    """Return a statistic: the mean of a score over seeds, with its error over seeds; None if no seed has the score.

    Args:
        score: a key of ``evaluation.json``.
    """

    def statistic(outcomes: RowOutcomes) -> Estimate | None:
        values = [read_score(outcome.scores, score) for outcome in outcomes.finished]
        known = [float(value) for value in values if value is not None]
        return Estimate.mean_of(torch.tensor(known, dtype=torch.float64)) if known else None

    return statistic
