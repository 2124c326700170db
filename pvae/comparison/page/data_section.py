"""The section on the data with the lowest log evidence under each row, with their reconstructions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pvae import plots
from pvae.comparison.base import Outcome
from pvae.comparison.number_formats import UNKNOWN
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.table.row import Row
from pvae.evaluate.arviz_versions import good_khat
from pvae.report import Column, Entry, Picture, Section, Sheet

__all__ = ["make_data_section"]

_MOST_ROWS = 4
_TEXT = (
    "The test data with the lowest log evidence under the first finished seed of each row, the lowest first. A k-hat "
    "above its limit means that the log evidence of this datum is not reliable."
)


def make_data_section(data: ReportData) -> Section | None:
    """Return the section with the worst data of the first rows, or None if no cell has any.

    Args:
        data: the results and settings.
    """
    chosen = [(row, outcome) for row, outcome in data.rows_with_pictures() if "worst" in data.arrays_of(outcome)]
    chosen = chosen[:_MOST_ROWS]
    if not chosen:
        return None
    pictures, failures = [], []
    for row, outcome in chosen:
        try:
            pictures.append(_draw_worst(data, row, outcome))
        except Exception as error:  # an error of a picture must not lose the results of a training
            failures.append(f"{data.key(row)}: the data could not be drawn ({type(error).__name__}).")
    sheets = (_tabulate(data, chosen),)
    return Section("Data that fit worst", (_TEXT, *failures), sheets=sheets, pictures=tuple(pictures))


def _tabulate(data: ReportData, chosen: list[tuple[Row, Outcome]]) -> Sheet:
    limit = good_khat(data.table.particles)
    columns = (
        Column("row", numeric=False),
        Column("datum", "Position among the test data, counted from 0."),
        Column("log evidence", "In nats."),
        Column("k-hat", f"Pareto k-hat; the limit is {limit:.2f}."),
        Column("mark", numeric=False),
    )
    rows = tuple(entries for row, outcome in chosen for entries in _rows_of(data, row, outcome, limit))
    return Sheet("The data with the lowest log evidence of each row.", columns, rows)


def _rows_of(data: ReportData, row: Row, outcome: Outcome, limit: float) -> list[tuple[Entry, ...]]:
    arrays = data.arrays_of(outcome)
    places = arrays["worst_places"].long()
    evidence = outcome.pointwise["log_evidence"][places].tolist()
    khat = _khat_of(outcome.pointwise, places)
    found: list[tuple[Entry, ...]] = []
    for position, value, shape in zip(arrays["worst_positions"].tolist(), evidence, khat, strict=True):
        known = shape == shape  # NaN is not known
        mark = "\u25b2 not reliable" if known and shape > limit else ""
        entry = Entry(f"{shape:.2f}", order=shape) if known else Entry(UNKNOWN)
        datum, nats = Entry(str(position), order=float(position)), Entry(f"{value:.2f}", order=value)
        found.append((Entry(data.key(row)), datum, nats, entry, Entry(mark)))
    return found


def _khat_of(pointwise: Mapping[str, Tensor], places: Tensor) -> list[float]:
    """Return the k-hat of some data; NaN if there is none."""
    khat = pointwise.get("khat", torch.full((int(places.max()) + 1,), torch.nan))
    values: list[float] = khat[places].double().tolist()
    return values


def _draw_worst(data: ReportData, row: Row, outcome: Outcome) -> Picture:
    arrays, name = data.arrays_of(outcome), f"{data.key(row)}, seed {outcome.cell.seed}"
    return Picture(
        plots.reconstructions(
            arrays["worst"],
            arrays["worst_reconstructions"],
            feature_names=data.schema.columns,
            title=f"{name}: test data with the lowest log evidence, and their reconstructions",
        ),
        f"The {len(arrays['worst'])} test data with the lowest log evidence under {name}, and their reconstructions.",
        f"{name}: the data of the table above, the lowest log evidence first.",
    )
