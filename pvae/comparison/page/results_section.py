"""The first section of a comparison's page: the table, and the log evidences with their intervals."""

from __future__ import annotations

from pvae import plots
from pvae.comparison.cells.training_summary import OBJECTIVE, VALIDATION, read_curve
from pvae.comparison.number_formats import UNKNOWN, format_interval
from pvae.comparison.page.exports import make_downloads
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.table.columns import cell_text, shown_columns
from pvae.comparison.table.conclusions import LEVEL
from pvae.comparison.table.rankings import Ranking
from pvae.comparison.table.row import Row
from pvae.comparison.table.row_outcomes import RowOutcomes
from pvae.report import Column, Entry, Picture, Section, Sheet

__all__ = ["critical_values", "make_results_section"]

_READING = (
    "If the thin line of a row reaches 0, its difference is not shown by the test. With few seeds Student's t has few "
    "degrees of freedom, so that the line is much longer than two standard errors."
)


def make_results_section(data: ReportData) -> Section:
    """Return the section with the table and its pictures.

    Args:
        data: the results and settings.
    """
    columns = (
        Column("objective", numeric=False),
        *(Column(column.name, column.meaning) for column in shown_columns(data.table.rows)),
    )
    rows = tuple(_entries(data, row, is_first=index == 0) for index, row in enumerate(data.table.rows))
    failed = frozenset(index for index, row in enumerate(data.table.rows) if not row.seeds)
    caption = f"Means over seeds, {_describe_checkpoint(data)}. Select a heading to sort by it."
    pictures = [picture for make in (_draw_evidences, _draw_differences) if (picture := make(data)) is not None]
    sheets = (Sheet(caption, columns, rows, failed), *_make_ranking_sheet(data))
    return Section("Results", sheets=sheets, pictures=tuple(pictures), downloads=make_downloads(data))


def _make_ranking_sheet(data: ReportData) -> list[Sheet]:
    """Return the table of the rows at equal budgets, or nothing if there are no rankings."""
    rankings = data.table.rankings
    if not rankings:
        return []
    meaning = "Validation bound in nats per datum ± standard error over seeds; in brackets, the place of the row."
    columns = (
        Column("row", numeric=False),
        *(Column(f"at {each.describe_amount()}", meaning) for each in rankings),
    )
    rows = tuple(
        (Entry(data.key(row)), *(_ranked_entry(ranking, index) for ranking in rankings))
        for index, row in enumerate(data.table.rows)
    )
    caption = (
        "Best validation bound within an equal budget, which is the least that a row used, by the learning curves. "
        "The bound has few particles, and its bias differs from row to row."
    )
    return [Sheet(caption, columns, rows)]


def _ranked_entry(ranking: Ranking, row: int) -> Entry:
    bound = ranking.bounds.get(row)
    if bound is None:
        return Entry(UNKNOWN)
    return Entry(format_interval(bound), f"({list(ranking.bounds).index(row) + 1})", bound.value)


def _describe_checkpoint(data: ReportData) -> str:
    curves = [read_curve(outcome.scores) for outcome in data.outcomes]
    splits = {curve.split for curve in curves if curve is not None}
    if OBJECTIVE in splits:
        return (
            "for the parameters with the best validation bound, or the best validation loss of an objective without one"
        )
    if VALIDATION in splits:
        return "for the parameters with the best validation bound"
    return "for the parameters at the end of training"


def _entries(data: ReportData, row: Row, is_first: bool) -> tuple[Entry, ...]:
    failures = f"{len(row.failures)} failed" if row.failures else ""
    name = Entry(f"{data.key(row)}: {data.label(row)}", failures)
    columns = shown_columns(data.table.rows)
    if not row.seeds:
        return (name, Entry(f"failed: {row.failures[0]}", span=len(columns)))
    cells = [cell_text(column, row, is_first) for column in columns]
    return (name, *(Entry(cell.text, cell.note, cell.order) for cell in cells))


def _draw_evidences(data: ReportData) -> Picture | None:
    """Return a picture of the log evidence of each row, with one point for each seed."""
    rows = [row for row in data.distinct_rows() if row.log_evidence is not None]
    if not rows:
        return None
    values = {data.key(row): _evidence_of_seeds(data, row) for row in rows}
    errors = {data.key(row): row.log_evidence.error for row in rows if row.log_evidence is not None}
    ends = {
        data.key(row): (row.log_evidence.value, row.log_evidence_upper.value)
        for row in rows
        if row.log_evidence is not None and row.log_evidence_upper is not None
    }
    both = " A thick bar reaches from the lower to the upper estimate; dots are lower estimates." if ends else ""
    others = [data.key(row) for row in rows if row.not_comparable]
    both += f" {', '.join(others)} cannot be compared with {data.key(data.table.rows[0])}." if others else ""
    return Picture(
        plots.evidence_intervals(values, errors, brackets=ends),
        f"Log evidence with intervals for {', '.join(values)}; the table has the numbers.",
        "Log evidence: a large dot is the mean over seeds with one standard error over data, a small dot is one seed. "
        f"All rows share the test data, so rows may differ although their intervals overlap: see the paired "
        f"differences.{both}",
        is_chart=True,
    )


def critical_values(data: ReportData) -> dict[str, float | tuple[float, float]]:
    """Return the distance from 0 at which each difference would be shown as the largest one, nats per datum, by key.

    The first step of Holm's procedure compares the smallest p-value with the level divided by the number of tests. For
    evidences from both sides, it is the distance from the least and from the largest difference that both brackets
    allow.

    Args:
        data: the results and settings.
    """
    from scipy.special import stdtrit

    tested = [row for row in data.table.rows if row.p_value is not None and row.degrees]
    share = 1.0 - LEVEL / (2 * max(1, len(tested)))
    return {data.key(row): _critical_value(row, float(stdtrit(row.degrees, share))) for row in tested}


def _critical_value(row: Row, quantile: float) -> float | tuple[float, float]:
    low, high = row.difference_lower, row.difference_upper
    if low is None or high is None:
        return quantile * row.difference_error
    return low.value - quantile * low.error, high.value + quantile * high.error


def _draw_differences(data: ReportData) -> Picture | None:
    """Return a picture of the paired differences to the first row, or None if there are none."""
    first = data.table.rows[0]
    if first.log_evidence is None:
        return None
    rows = [row for row in data.distinct_rows() if row is first or row.difference is not None]
    if len(rows) < 2:
        return None
    values = {data.key(row): _differences_of_seeds(data, row) for row in rows}
    errors = {data.key(row): 0.0 if row is first else row.difference_error for row in rows}
    first_name = data.key(first)
    ends = {
        data.key(row): (row.difference_lower.value, row.difference_upper.value)
        for row in rows
        if row.difference_lower is not None and row.difference_upper is not None
    }
    both = " A thick bar reaches from the least to the largest difference that both brackets allow." if ends else ""
    return Picture(
        plots.evidence_intervals(
            values,
            errors,
            xlabel=f"log evidence minus that of {first_name} (nats per datum)",
            zero=True,
            critical=critical_values(data),
            brackets=ends,
        ),
        f"Paired differences in log evidence to {first_name} for {', '.join(values)}, with intervals.",
        f"Differences to {first_name}, paired by datum and seed, without the estimated bias if known: a large dot "
        "is the mean with one standard error over data and seeds together, a small dot is one seed. Right of 0 is "
        "better. The thin line is the critical value of the largest difference; the verdict names the differences "
        f"that are shown.{both}",
        reading=_READING,
        is_chart=True,
    )


def _evidence_of_seeds(data: ReportData, row: Row) -> list[float]:
    evidence = RowOutcomes(data.finished_outcomes(row)).pointwise("log_evidence")
    values: list[float] = [] if evidence is None else evidence.mean(dim=1).tolist()
    return values


def _differences_of_seeds(data: ReportData, row: Row) -> list[float]:
    first_row = data.finished_outcomes(data.table.rows[0])
    difference = RowOutcomes(data.finished_outcomes(row), first_row).paired_difference()
    values: list[float] = [] if difference is None else difference.mean(dim=1).tolist()
    return values
