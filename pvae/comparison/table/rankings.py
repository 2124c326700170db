"""Rankings by the validation bound at equal epochs, equal training time and equal decoder evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pvae.comparison.base import Outcome
from pvae.comparison.cells.training_summary import VALIDATION, CurvePoint, read_curve, read_score
from pvae.comparison.number_formats import format_count, format_duration, format_interval
from pvae.evaluate import Estimate

__all__ = ["Ranking", "evaluations_until", "make_rankings"]


@dataclass(frozen=True)
class Ranking:
    """The rows in the order of their best validation bound within an equal budget.

    Attributes:
        budget: the name of the budget: ``"epochs"``, ``"training seconds"`` or ``"decoder evaluations"``.
        amount: the amount that every row had, which is the least that a row used.
        bounds: the bound of each row by its index, the best first, in nats per datum, error over seeds; a row without a
            bound within the amount is left out.
    """

    budget: str
    amount: float
    bounds: Mapping[int, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Return the budget, its amount, and the rows in order, each with its index and its bound."""
        bounds = [{"row": row, "bound": bound.to_json()} for row, bound in self.bounds.items()]
        return {"budget": self.budget, "amount": self.amount, "bounds": bounds}

    def describe(self, labels: Sequence[str]) -> str:
        """Return the ranking in one line.

        Args:
            labels: the names of all rows.
        """
        if not self.bounds:
            return f"Validation bound at {self.describe_amount()}: no row has a bound yet."
        order = ", ".join(f"{labels[row]} ({format_interval(bound)})" for row, bound in self.bounds.items())
        missing = [label for row, label in enumerate(labels) if row not in self.bounds]
        note = f"; no bound yet: {', '.join(missing)}" if missing else ""
        return f"Validation bound at {self.describe_amount()} (± over seeds), the best first: {order}{note}."

    def describe_amount(self) -> str:
        """Return the budget with its amount as text, such as ``"12 s of training"``."""
        if self.budget == "training seconds":
            return f"{format_duration(self.amount)} of training"
        return f"{format_count(self.amount)} {self.budget}"


def make_rankings(groups: Sequence[Sequence[Outcome]]) -> tuple[Ranking, ...]:
    """Return the rankings at equal epochs, equal training time and equal decoder evaluations.

    They are computed from the recorded learning curves. There are none for a single row, and none if a row has no
    validation bound, because losses of different objectives cannot be compared.

    Args:
        groups: for each row of the table its finished outcomes.
    """
    if len(groups) < 2 or not all(group and all(map(_has_bound, group)) for group in groups):
        return ()
    return tuple(_rank_at(name, cost, groups) for name, cost in _COSTS.items())


def _has_bound(outcome: Outcome) -> bool:
    curve = read_curve(outcome.scores)
    return curve is not None and curve.split == VALIDATION


def evaluations_until(outcome: Outcome, point: CurvePoint) -> float:
    """Return the decoder evaluations until a point of a curve; earlier versions did not record them.

    Args:
        outcome: a finished outcome.
        point: a point of its learning curve.
    """
    if not math.isnan(point.evaluations):
        return point.evaluations
    epochs = read_score(outcome.scores, "epochs") or 0
    return point.epoch * float(outcome.scores.get("decoder_evaluations", math.nan)) / max(1, int(epochs))


_Cost = Callable[[Outcome, CurvePoint], float]
_COSTS: dict[str, _Cost] = {
    "epochs": lambda outcome, point: float(point.epoch),
    "training seconds": lambda outcome, point: point.seconds,
    "decoder evaluations": evaluations_until,
}


def _rank_at(name: str, cost: _Cost, groups: Sequence[Sequence[Outcome]]) -> Ranking:
    amount = min(cost(outcome, _points(outcome)[-1]) for group in groups for outcome in group)
    bounds = {}
    for row, group in enumerate(groups):
        values = [_best_within(outcome, amount, cost) for outcome in group]
        if not any(map(math.isnan, values)):
            bounds[row] = Estimate.mean_of(torch.tensor(values, dtype=torch.float64))
    ordered = sorted(bounds, key=lambda row: -bounds[row].value)
    return Ranking(name, amount, {row: bounds[row] for row in ordered})


def _points(outcome: Outcome) -> tuple[CurvePoint, ...]:
    curve = read_curve(outcome.scores)
    return () if curve is None else curve.points


def _best_within(outcome: Outcome, amount: float, cost: _Cost) -> float:
    """Return the best bound of a training within an amount, because `fit` keeps the best parameters; NaN for none."""
    # The tolerance covers the rounding error of an amount that was computed by a division.
    values = [point.value for point in _points(outcome) if cost(outcome, point) <= amount * (1 + 1e-9)]
    return max(values, default=math.nan)
