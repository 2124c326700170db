"""`TableColumn`: a column of the comparison table, and the text of its cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pvae.comparison.number_formats import UNKNOWN
from pvae.comparison.table.row import Row
from pvae.comparison.table.row_outcomes import Statistic
from pvae.evaluate import Estimate

__all__ = ["CellText", "TableColumn", "show_estimate"]


@dataclass(frozen=True)
class CellText:
    """One cell of the table.

    Attributes:
        text: the text.
        note: a smaller text next to it or below it.
        order: the number that sorts the column; None if it is unknown.
    """

    text: str
    note: str = ""
    order: float | None = None


@dataclass(frozen=True)
class TableColumn:
    """A column of the comparison table.

    Attributes:
        name: heading on the page.
        meaning: the meaning of the column, in one or two sentences.
        statistics: functions for the values of a row, by their names in `Row` and in JSON files. A name that is not an
            attribute of `Row` is kept in `Row.additional`.
        show: the cell of a row with at least one finished seed; gets the row, and whether it is the first one.
        heading: heading in the text table, which has no help texts; `name` if empty.
        optional: whether a table leaves the column out if no row has a value of it.
        page_only: whether the text table leaves the column out, because it would be too wide for a terminal.
    """

    name: str
    meaning: str
    statistics: Mapping[str, Statistic]
    show: Callable[[Row, bool], CellText]
    heading: str = ""
    optional: bool = False
    page_only: bool = False


def show_estimate(name: str, to_text: Callable[[Estimate], str]) -> Callable[[Row, bool], CellText]:
    """Return a `TableColumn.show` for one estimate.

    Args:
        name: name of the estimate in `Row` or in `Row.additional`.
        to_text: turns the estimate into text.
    """

    def show(row: Row, is_first: bool) -> CellText:
        estimate = row.additional[name] if name in row.additional else getattr(row, name)
        return CellText(UNKNOWN) if estimate is None else CellText(to_text(estimate), order=estimate.value)

    return show
