"""The outcomes behind one row of the table, and statistics of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.comparison.base import Outcome
from pvae.comparison.cells.training_summary import read_score
from pvae.evaluate import Estimate

__all__ = ["RowOutcomes", "Statistic", "mean_over_seeds", "stack_pointwise"]


@dataclass(frozen=True)
class RowOutcomes:
    """The finished outcomes of one row, and those of the first row, with which it is compared.

    Attributes:
        finished: the outcomes of the seeds that finished; at least one.
        first_row: the finished outcomes of the first row; empty for the first row itself.
        rank: rank of the row by ``az.compare``, 0 is best; None if there is none.
    """

    finished: Sequence[Outcome]
    first_row: Sequence[Outcome] = ()
    rank: int | None = None

    def pointwise(self, name: str) -> Tensor | None:
        """Return a pointwise value of all seeds, shape (seeds, data), float64; None if a seed does not have it.

        Args:
            name: ``log_evidence``, ``elbo``, ``summed_out_elbo``, ``khat`` or ``ess``.
        """
        return stack_pointwise(self.finished, name)

    def paired_difference(self) -> Tensor | None:
        """Return log evidence minus that of the first row, paired by seed and datum, shape (shared seeds, data).

        It is None for the first row, if no seed finished in both rows, and if one of them has no log evidence.
        """
        outcomes = {outcome.cell.seed: outcome for outcome in self.finished}
        first_outcomes = {outcome.cell.seed: outcome for outcome in self.first_row}
        seeds = sorted(outcomes.keys() & first_outcomes.keys())
        values = stack_pointwise([outcomes[seed] for seed in seeds], "log_evidence")
        first_values = stack_pointwise([first_outcomes[seed] for seed in seeds], "log_evidence")
        return None if values is None or first_values is None else values - first_values


Statistic = Callable[[RowOutcomes], Any]


def stack_pointwise(outcomes: Sequence[Outcome], name: str) -> Tensor | None:
    """Return a pointwise value of several outcomes, shape (outcomes, data), float64.

    It is None if there are no outcomes, or if one does not have the value.

    Args:
        outcomes: finished outcomes.
        name: ``log_evidence``, ``elbo``, ``khat`` or ``ess``.
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
