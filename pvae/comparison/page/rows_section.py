"""The rows of a comparison by their short names, with marks on rows that need a second look."""

from __future__ import annotations

from pvae.comparison.page.report_data import ReportData
from pvae.comparison.table.row import Row
from pvae.report import Column, Entry, Section, Sheet

__all__ = ["bad_khat_share", "make_rows_section", "marks_of"]

_MOST_BAD_KHAT = 0.1  # share of data


def make_rows_section(data: ReportData) -> Section:
    """Return the section that explains the short names of the rows.

    Args:
        data: the results and settings.
    """
    columns = (
        Column("key", numeric=False),
        Column("model", numeric=False),
        Column("objective", numeric=False),
        Column("seeds", "Seeds that finished, of all."),
        Column("marks", "What to look at before the numbers of this row are used.", numeric=False),
    )
    rows = tuple(_entries(data, row) for row in data.table.rows)
    failed = frozenset(index for index, row in enumerate(data.table.rows) if not row.seeds)
    caption = "Figures and sentences name a row by its key. The first row is the reference of all differences."
    return Section("Rows", sheets=(Sheet(caption, columns, rows, failed),))


def _entries(data: ReportData, row: Row) -> tuple[Entry, ...]:
    planned = len(row.seeds) + len(row.failures)
    seeds = Entry(f"{len(row.seeds)} of {planned}", order=float(len(row.seeds)))
    marks = "; ".join(marks_of(data, row)) or "none"
    return (Entry(data.key(row)), Entry(row.model), Entry(row.objective), seeds, Entry(marks))


def marks_of(data: ReportData, row: Row) -> list[str]:
    """Return what to look at before the numbers of a row are used, in a few words each.

    Args:
        data: the results and settings.
        row: a row of the table.
    """
    marks = []
    if row.failures:
        marks.append(f"\u25a0 {len(row.failures)} failed")
    if row.biased:
        marks.append("\u25b2 biased gradient")
    if row.unfinished:
        marks.append("\u25b2 not converged")
    share = bad_khat_share(row)
    if share is not None and share > _MOST_BAD_KHAT:
        marks.append(f"\u25b2 k-hat too large for {100 * share:.0f}% of the data")
    if row.active_units is not None and row.active_units.value < 0.5:
        marks.append("\u25b2 no latent unit is used")
    same = data.duplicate_of(row)
    if same is not None:
        marks.append(f"same results as {data.key(same)}, which stands for both in figures")
    return marks


def bad_khat_share(row: Row) -> float | None:
    """Return the share of data with a k-hat above its limit, or None if there is no k-hat."""
    return None if row.bad_khat is None else row.bad_khat.value
