"""The sections with pictures on a comparison's page: learning curves, samples and reconstructions, latent space."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from pvae import plots
from pvae.comparison.base import Outcome
from pvae.comparison.cells.training_summary import VALIDATION, LearningCurve, read_curve
from pvae.comparison.page.report_data import ReportData
from pvae.data import Schema
from pvae.errors import first_line
from pvae.report import Picture, Section

__all__ = ["make_curves_section", "make_latent_section", "make_samples_section"]

_SAME_BOUND = "The bound does not depend on the objective, and all rows have the same data."
_OWN_LOSSES = (
    "The data have no validation split, so each row shows the loss of its own objective; losses of different rows "
    "cannot be compared."
)
_SHARED_MACHINE = "Cells were trained at the same time, so the seconds depend on this machine and its load."


def make_curves_section(data: ReportData) -> Section | None:
    """Return the section with the learning curves, or None if no cell has one.

    Args:
        data: the results and settings.
    """
    curves = {}
    for row in data.table.rows:
        row_curves = [read_curve(outcome.scores) for outcome in data.finished_outcomes(row)]
        if known := [curve for curve in row_curves if curve is not None]:
            curves[data.label(row)] = known
    if not curves:
        return None
    quantity, note = _describe_quantity(curves)
    by_epoch = {name: [_by_epoch(curve) for curve in row_curves] for name, row_curves in curves.items()}
    by_time = {name: [_by_time(curve) for curve in row_curves] for name, row_curves in curves.items()}
    pictures = (
        _draw_curves(by_epoch, quantity, "epochs", note),
        _draw_curves(by_time, quantity, "seconds of training", _SHARED_MACHINE),
    )
    return Section("Learning curves", pictures=pictures)


def _describe_quantity(curves: Mapping[str, Sequence[LearningCurve]]) -> tuple[str, str]:
    """Return the quantity of all curves for the axis, and a note on whether rows can be compared by it."""
    names_by_quantity: dict[str, list[str]] = {}
    for name, row_curves in curves.items():
        names_by_quantity.setdefault(row_curves[0].quantity, []).append(name)
    first = next(iter(curves.values()))[0]
    note = _SAME_BOUND if first.split == VALIDATION else _OWN_LOSSES
    if len(names_by_quantity) == 1:
        return first.quantity, note
    groups = "; ".join(f"{quantity} for {', '.join(names)}" for quantity, names in names_by_quantity.items())
    return f"{first.split} bound", f"{note} Quantities: {groups}."


_Line = tuple[list[float], list[float]]


def _by_epoch(curve: LearningCurve) -> _Line:
    return [float(point.epoch) for point in curve.points], [point.value for point in curve.points]


def _by_time(curve: LearningCurve) -> _Line:
    return [point.seconds for point in curve.points], [point.value for point in curve.points]


def _draw_curves(lines: Mapping[str, Sequence[_Line]], quantity: str, axis: str, note: str) -> Picture:
    return Picture(
        plots.learning_curves(lines, xlabel=axis, ylabel=f"{quantity}\n(nats per datum)"),
        f"The {quantity} against {axis} for {', '.join(lines)}.",
        f"{quantity.capitalize()}, against {axis}. A thin line is one seed, a thick line the mean over seeds. {note}",
    )


def make_samples_section(data: ReportData) -> Section | None:
    """Return the section with samples and reconstructions, or None if no cell has any.

    Args:
        data: the results and settings.
    """
    pictures = _Pictures()
    outcomes = [
        (_arrays_of(data, outcome), f"{data.label(row)}, seed {outcome.cell.seed}")
        for row, outcome in data.rows_with_pictures()
    ]
    for key, draw in (("samples", _draw_samples), ("reconstructions", _draw_reconstructions)):
        for arrays, name in outcomes:
            pictures.add(draw, key, arrays, name)
    text = (
        "The pictures are from the first finished seed of each row, which need not be the best one. "
        f"The originals are test data of {data.data_name}."
    )
    return pictures.section("Samples and reconstructions", text)


class _Pictures:
    """Collects the pictures of a section; one that cannot be drawn is left out, with a line that says so."""

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self.failures: list[str] = []

    def add(
        self, draw: Callable[[Mapping[str, Tensor], str], Picture], key: str, arrays: Mapping[str, Tensor], name: str
    ) -> None:
        """Draw a picture of arrays.

        Args:
            draw: makes the picture of the arrays and the name.
            key: the array that the picture needs; without it there is no picture.
            arrays: the arrays of one cell.
            name: the name of the cell.
        """
        if key not in arrays:
            return
        try:
            self.pictures.append(draw(arrays, name))
        except Exception as error:  # the results of a training must not be lost with a picture
            self.failures.append(f"{name}: the {key} could not be drawn ({type(error).__name__}: {first_line(error)}).")

    def section(self, title: str, text: str) -> Section | None:
        """Return the section; None if there is nothing to show."""
        if not self.pictures and not self.failures:
            return None
        return Section(title, (text, *self.failures), pictures=tuple(self.pictures))


def _draw_samples(arrays: Mapping[str, Tensor], name: str) -> Picture:
    return Picture(
        plots.image_grid(arrays["samples"]),
        f"{len(arrays['samples'])} samples from the model trained with {name}.",
        f"{name}: the mean of p(x given z) for z drawn from the prior.",
    )


def _draw_reconstructions(arrays: Mapping[str, Tensor], name: str) -> Picture:
    return Picture(
        plots.reconstructions(arrays["originals"], arrays["reconstructions"]),
        f"{len(arrays['originals'])} test data and their reconstructions, {name}.",
        f"{name}: test data, and the mean of p(x given z) for z drawn from the guide.",
    )


def make_latent_section(data: ReportData) -> Section | None:
    """Return the section with the codes of the latent space, or None if no cell has any.

    Args:
        data: the results and settings.
    """
    pictures = _Pictures()
    for row, outcome in data.rows_with_pictures():
        arrays = _arrays_of(data, outcome)
        pictures.add(
            functools.partial(_draw_codes, schema=data.schema),
            "codes",
            arrays,
            f"{data.label(row)}, seed {outcome.cell.seed}",
        )
    text = (
        "Each point is the latent code of one datum. The labels of the axes say which latent units they show (those "
        "with the largest KL), or that they show principal components of the codes."
    )
    return pictures.section("Latent space", text)


def _draw_codes(arrays: Mapping[str, Tensor], name: str, schema: Schema) -> Picture:
    coloured = ", coloured by label" if "labels" in arrays else ""
    count = len(arrays["codes"])
    labels = schema.named(arrays["labels"]) if "labels" in arrays else None
    return Picture(
        plots.latent_scatter(arrays["codes"], labels, kl=arrays.get("kl")),
        f"Scatter plot of the latent means of {count} test data{coloured}, {name}.",
        f"{name}: means of q(z given x) of {count} test data{coloured}.",
    )


def _arrays_of(data: ReportData, outcome: Outcome) -> Mapping[str, Tensor]:
    return data.arrays.get(outcome.cell.label, {})
