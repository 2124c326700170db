"""The learning curves on a comparison's page, against epochs, training time and decoder evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from pvae import plots
from pvae.comparison.base import Outcome
from pvae.comparison.cells.training_summary import (
    OBJECTIVE,
    VALIDATION,
    CurvePoint,
    LearningCurve,
    read_curve,
)
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.table.rankings import evaluations_until
from pvae.evaluate import Estimate
from pvae.report import Column, Entry, Picture, Section, Sheet

__all__ = ["make_curves_section"]

_SAME_BOUND = "The bound does not depend on the objective, and all rows have the same data."
_OTHER_VALUES = (
    "The bounds of some rows are densities of other values, or of another kind, so that they cannot be compared with "
    "that of the first row; the verdict says which rows these are."
)
_OWN_LOSSES = (
    "The data have no validation split, so each row shows the loss of its own objective; losses of different rows "
    "cannot be compared."
)
_OWN_VALIDATION = (
    "An objective without a bound on log p(x) has its own loss on validation data; losses of different objectives "
    "cannot be compared with each other or with a bound."
)
_SHARED_MACHINE = "Cells were trained at the same time, so the seconds depend on this machine and its load."
_READING = (
    "Higher is better. A thin line is one seed, and a thick line is the mean over seeds. The vertical axis leaves "
    "out the first tenth of training. A line that still rises at its end belongs to a training that is not finished."
)
_MOST_LINES = 12  # of the table of the numbers of a figure

_Line = tuple[list[float], list[float]]
_Curves = Mapping[str, Sequence[tuple[Outcome, LearningCurve]]]


def make_curves_section(data: ReportData) -> Section | None:
    """Return the section with the learning curves, or None if no cell has one.

    Args:
        data: the results and settings.
    """
    curves = {}
    for row in data.distinct_rows():
        pairs = [(outcome, read_curve(outcome.scores)) for outcome in data.finished_outcomes(row)]
        if known := [(outcome, curve) for outcome, curve in pairs if curve is not None]:
            curves[data.key(row)] = known
    if not curves:
        return None
    quantity, note = _describe_quantity(curves, any(row.not_comparable for row in data.table.rows))
    axes: tuple[tuple[str, Callable[[Outcome, CurvePoint], float], str], ...] = (
        ("epochs", lambda outcome, point: float(point.epoch), note),
        ("seconds of training", lambda outcome, point: point.seconds, _SHARED_MACHINE),
        ("decoder evaluations", evaluations_until, "A step evaluates the decoder once for each particle and datum."),
    )
    pictures = tuple(_draw_curves(curves, quantity, axis, cost, text) for axis, cost, text in axes)
    return Section("Learning curves", pictures=pictures)


def _describe_quantity(curves: _Curves, has_other_values: bool) -> tuple[str, str]:
    """Return the quantity of all curves for the axis, and a note on whether rows can be compared by it.

    Args:
        curves: the curves of each row.
        has_other_values: whether a row scores other values than the first one.
    """
    names_by_quantity: dict[str, list[str]] = {}
    for name, pairs in curves.items():
        names_by_quantity.setdefault(pairs[0][1].quantity, []).append(name)
    first = next(iter(curves.values()))[0][1]
    splits = {pairs[0][1].split for pairs in curves.values()}
    same_bound = _OTHER_VALUES if has_other_values else _SAME_BOUND
    note = same_bound if first.split == VALIDATION else _OWN_LOSSES
    if OBJECTIVE in splits:
        note = _OWN_VALIDATION
    if len(names_by_quantity) == 1:
        return first.quantity, note
    groups = "; ".join(f"{quantity} for {', '.join(names)}" for quantity, names in names_by_quantity.items())
    name = "validation value" if OBJECTIVE in splits else f"{first.split} bound"
    return name, f"{note} Quantities: {groups}."


def _draw_curves(
    curves: _Curves, quantity: str, axis: str, cost: Callable[[Outcome, CurvePoint], float], note: str
) -> Picture:
    lines: dict[str, list[_Line]] = {
        name: [
            ([cost(outcome, point) for point in curve.points], [point.value for point in curve.points])
            for outcome, curve in pairs
        ]
        for name, pairs in curves.items()
    }
    return Picture(
        plots.learning_curves(lines, xlabel=axis, ylabel=f"{quantity}\n(nats per datum)"),
        f"The {quantity} against {axis} for {', '.join(lines)}.",
        f"{quantity.capitalize()}, against {axis}. {note}",
        reading=_READING,
        numbers=_tabulate(lines, quantity, axis),
        is_chart=True,
    )


def _tabulate(lines: Mapping[str, Sequence[_Line]], quantity: str, axis: str) -> Sheet:
    """Return points of the mean over the seeds of each row, at most twelve of equal distance, as a table.

    Seeds may have different numbers of points and, against time, different points. The mean at a point and its standard
    error are over the seeds that have this point.
    """
    rows = []
    for name, seeds in lines.items():
        length = max(len(x) for x, _ in seeds)
        step = max(1, -(-length // _MOST_LINES))
        for index in sorted({*range(0, length, step), length - 1}):
            points = [(x[index], y[index]) for x, y in seeds if index < len(x)]
            place = sum(x for x, _ in points) / len(points)
            value = Estimate.mean_of(torch.tensor([y for _, y in points], dtype=torch.float64))
            shown = f"{value.value:.4f}" if len(points) == 1 else str(value)
            rows.append(
                (
                    Entry(name),
                    Entry(f"{place:.4g}", order=place),
                    Entry(shown, order=value.value),
                    Entry(str(len(points)), order=float(len(points))),
                )
            )
    columns = (
        Column("row", numeric=False),
        Column(axis),
        Column(f"{quantity} (nats per datum)"),
        Column("seeds"),
    )
    caption = (
        f"Means over the seeds of each row \u00b1 standard error over seeds, {quantity} against {axis}. A seed that "
        "ended earlier is not in the later means."
    )
    return Sheet(caption, columns, tuple(rows))
