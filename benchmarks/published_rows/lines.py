"""The lines of a row, the figures that they are compared with, verdicts and the printed table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.base import mean_error, table

__all__ = ["BUDGETS", "HEADING", "Budget", "Cell", "Line", "PublishedRow", "Target", "table_of", "verdict"]

BUDGETS = ("smoke", "short", "full")
HEADING = (
    "line", "measured", "seeds", "estimated bias", "compared with", "its figure", "difference", "tolerance", "verdict"
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A figure that a line is compared with.

    Attributes:
        source: who published it, in a few words.
        value: the figure, in the unit of the row.
        tolerance: the largest difference that counts as the same result.
        error: its standard error over trainings, or None if the source gives none.
        budget: the budget at which the comparison makes sense.
    """

    source: str
    value: float
    tolerance: float
    error: float | None = None
    budget: str = "full"


@dataclass(frozen=True)
class Line:
    """One line of a published table.

    Attributes:
        key: its name in file names.
        label: its name in the table.
        targets: the figures that it is compared with.
        budgets: the budgets that measure it; a line that needs too much time for one is left out there.
        settings: what distinguishes the line from the others of its row.
    """

    key: str
    label: str
    targets: tuple[Target, ...]
    budgets: tuple[str, ...] = BUDGETS
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """The size of a row's data, networks, trainings and evaluation.

    Attributes:
        seeds: the number of seeds, counted from 0.
        settings: of data, model, training and evaluation.
        recipe: the settings as a paragraph.
    """

    seeds: int
    settings: Mapping[str, Any]
    recipe: str


@dataclass(frozen=True)
class Cell:
    """One training of one line.

    Attributes:
        line: the line.
        seed: the seed.
        settings: those of the budget.
        folder: the folder of the run, which a training continues from.
    """

    line: Line
    seed: int
    settings: Mapping[str, Any]
    folder: Path


@dataclass(frozen=True)
class PublishedRow:
    """A published result and how to measure it.

    Attributes:
        title: the heading on the page.
        source: the publication and its table, as a sentence.
        quantity: what a number is, with its unit, and whether larger or smaller is better.
        lines: the lines of the table.
        budgets: the budget of each name in `BUDGETS`.
        measure: trains and evaluates a cell; returns ``value``, ``error`` (over data), and ``bias`` (its estimate, or
            None).
        shortfall: why the budget ``short`` does not reach the published figures.
        tolerances: where the tolerances come from.
        deviations: how the budget ``full`` differs from the publication.
        digits: number of digits after the point.
    """

    title: str
    source: str
    quantity: str
    lines: tuple[Line, ...]
    budgets: Mapping[str, Budget]
    measure: Callable[[Cell], dict[str, Any]]
    shortfall: str
    tolerances: str
    deviations: str
    digits: int = 2


def verdict(value: float, error: float, target: Target, budget: str) -> str:
    """Return whether a measured figure agrees with another one.

    It is "within" or "not within" the tolerance if the distance from the tolerance exceeds two standard errors of the
    difference, otherwise "undecided".

    Args:
        value: the mean over seeds.
        error: its standard error over seeds; NaN for one seed, which adds nothing.
        target: the other figure.
        budget: the budget of the measurement.
    """
    if budget != target.budget:
        return "not comparable at this budget"
    known = [number for number in (error, target.error) if number is not None and not math.isnan(number)]
    distance = abs(value - target.value)
    suffix = " (one seed)" if math.isnan(error) else ""
    if known and abs(distance - target.tolerance) <= 2 * math.hypot(*known):
        return "undecided: the error is too large" + suffix
    return ("within" if distance <= target.tolerance else "not within") + suffix


def _with_error(value: float, error: float | None, digits: int) -> str:
    known = error is not None and not math.isnan(error)
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if known else "")


def _rows_of(line: Line, cells: Sequence[Mapping[str, Any]], budget: str, digits: int) -> list[tuple[str, ...]]:
    """Return the rows of one line: one for each figure that it is compared with."""
    value, over_seeds = mean_error(cell["value"] for cell in cells)
    over_data = sum(cell["error"] for cell in cells) / len(cells)
    biases = [cell["bias"] for cell in cells if cell.get("bias") is not None]
    bias = f"{sum(biases) / len(biases):+.{digits}f}" if biases else "none"
    seeds = ", ".join(f"{cell['value']:.{digits}f}" for cell in cells)
    seeds += "" if math.isnan(over_seeds) else f" (error {over_seeds:.{digits}f})"
    measured = (line.label, _with_error(value, over_data, digits), seeds, bias)
    return [
        (
            *measured,
            target.source,
            _with_error(target.value, target.error, digits),
            "other data" if budget == "smoke" else f"{value - target.value:+.{digits}f}",
            f"{target.tolerance:g}",
            verdict(value, over_seeds, target, budget),
        )
        for target in line.targets
        if target.budget in (budget, "full")
    ]


def table_of(row: PublishedRow, cells: Mapping[str, Sequence[Mapping[str, Any]]], budget: str) -> str:
    """Return the table of a row in Markdown.

    Args:
        row: the row.
        cells: the results of the seeds, by the key of the line.
        budget: the name of the budget.
    """
    lines = [line for line in row.lines if line.key in cells]
    rows = [entry for line in lines for entry in _rows_of(line, cells[line.key], budget, row.digits)]
    return table([HEADING, *rows])
