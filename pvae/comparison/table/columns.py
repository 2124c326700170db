"""The columns of the comparison table. To add a column, add one `TableColumn` to `COLUMNS`.

The text table, the JSON files and the page take the columns from this list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pvae.comparison.number_formats import (
    UNKNOWN,
    format_count,
    format_duration,
    format_interval,
    format_number,
    format_percentage,
)
from pvae.comparison.table.row import Row
from pvae.comparison.table.row_outcomes import RowOutcomes, Statistic, mean_over_seeds
from pvae.evaluate import Estimate

__all__ = ["BAD_KHAT", "COLUMNS", "CellText", "TableColumn", "cell_text", "show_estimate", "shown_columns"]

#: Pareto k-hat above which an importance-sampled evidence is not reliable.
BAD_KHAT = 0.7


@dataclass(frozen=True)
class CellText:
    """One cell of the table.

    Attributes:
        text: the text.
        note: a smaller text beside it or below it.
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
        meaning: what the column shows, in one or two sentences.
        statistics: how to compute the values of a row, by their names in `Row` and in JSON files. A name that is no
            attribute of `Row` is kept in `Row.additional`.
        show: the cell of a row with at least one finished seed; gets the row, and whether it is the first one.
        heading: heading in the text table, which has no help texts; `name` if empty.
        optional: whether a table leaves the column out if no row has a value of it.
    """

    name: str
    meaning: str
    statistics: Mapping[str, Statistic]
    show: Callable[[Row, bool], CellText]
    heading: str = ""
    optional: bool = False


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


def shown_columns(rows: Sequence[Row]) -> list[TableColumn]:
    """Return the columns of a table of these rows, without optional columns that are empty."""
    return [
        column
        for column in COLUMNS
        if not column.optional
        or any(row.additional.get(name) is not None for row in rows for name in column.statistics)
    ]


def cell_text(column: TableColumn, row: Row, is_first: bool) -> CellText:
    """Return the cell of a row in a column; a dash if no seed of the row finished.

    Args:
        column: the column.
        row: the row.
        is_first: whether it is the first row of the table.
    """
    return column.show(row, is_first) if row.seeds else CellText(UNKNOWN)


def _mean_over(name: str, dim: int) -> Callable[[RowOutcomes], Estimate | None]:
    """Return a statistic: the mean of a pointwise value, after the mean over seeds (0) or over data (1).

    Args:
        name: the pointwise value.
        dim: the dimension of the first mean; the error is that of the second one.
    """

    def statistic(outcomes: RowOutcomes) -> Estimate | None:
        values = outcomes.pointwise(name)
        return None if values is None else Estimate.mean_of(values.mean(dim=dim))

    return statistic


_evidence_over_seeds = _mean_over("log_evidence", 1)


def _spread(outcomes: RowOutcomes) -> float:
    estimate = _evidence_over_seeds(outcomes)
    return math.nan if estimate is None else estimate.error * math.sqrt(len(outcomes.finished))


def _show_log_evidence(row: Row, is_first: bool) -> CellText:
    cell = show_estimate("log_evidence", format_interval)(row, is_first)
    note = "" if row.log_evidence is None else f"({format_number(row.spread)})"
    return CellText(cell.text, note, cell.order)


def _difference(outcomes: RowOutcomes) -> Estimate | None:
    difference = outcomes.paired_difference()
    return None if difference is None else Estimate.mean_of(difference.mean(dim=0))


def _difference_over_seeds(outcomes: RowOutcomes) -> Estimate | None:
    difference = outcomes.paired_difference()
    return None if difference is None else Estimate.mean_of(difference.mean(dim=1))


def _show_difference(row: Row, is_first: bool) -> CellText:
    if is_first:
        return CellText("first row", order=0.0)
    cell = show_estimate("difference", lambda estimate: format_interval(estimate, sign=True))(row, is_first)
    over_seeds = row.difference_over_seeds
    has_error = over_seeds is not None and not math.isnan(over_seeds.error)
    note = f"({over_seeds.error:.3f} seeds)" if over_seeds is not None and has_error else ""
    return CellText(cell.text, note, cell.order)


def _show_rank(row: Row, is_first: bool) -> CellText:
    return CellText(UNKNOWN) if row.rank is None else CellText(str(row.rank + 1), order=float(row.rank))


def _gap(outcomes: RowOutcomes) -> Estimate | None:
    log_evidence, elbo = outcomes.pointwise("log_evidence"), outcomes.pointwise("elbo")
    return None if log_evidence is None or elbo is None else Estimate.mean_of((log_evidence - elbo).mean(dim=0))


def _bad_khat(outcomes: RowOutcomes) -> Estimate | None:
    khat = outcomes.pointwise("khat")
    if khat is None or khat.isnan().any():  # no weights, or too few particles for an estimate
        return None
    return Estimate.mean_of((khat > BAD_KHAT).double().mean(dim=0))


def _ess_median(outcomes: RowOutcomes) -> Estimate | None:
    ess = outcomes.pointwise("ess")
    return None if ess is None else Estimate.mean_of(ess.median(dim=1).values)


def _ess_low(outcomes: RowOutcomes) -> Estimate | None:
    ess = outcomes.pointwise("ess")
    return None if ess is None else Estimate.mean_of(ess.quantile(0.05, dim=1))


def _show_ess(row: Row, is_first: bool) -> CellText:
    cell = show_estimate("ess_median", lambda estimate: format_percentage(estimate.value))(row, is_first)
    note = "" if row.ess_low is None else f"({format_percentage(row.ess_low.value)})"
    return CellText(cell.text, note, cell.order)


COLUMNS: tuple[TableColumn, ...] = (
    TableColumn(
        "log evidence",
        "Importance-sampled log p(x) in nats per datum; higher is better. Mean over seeds ± standard error over data; "
        "in brackets, the standard deviation over seeds. A model without a log weight for each datum has none.",
        {"log_evidence": _mean_over("log_evidence", 0), "evidence_over_seeds": _evidence_over_seeds, "spread": _spread},
        _show_log_evidence,
        heading="log evidence (sd)",
    ),
    TableColumn(
        "difference",
        "Log evidence minus that of the first row, paired by datum ± standard error over data; in brackets, the "
        "standard error over seeds.",
        {"difference": _difference, "difference_over_seeds": _difference_over_seeds},
        _show_difference,
        heading="difference to first",
    ),
    TableColumn(
        "rank",
        "Rank by the function compare of ArviZ on the pointwise log evidence, averaged over seeds; 1 is best.",
        {"rank": lambda outcomes: outcomes.rank},
        _show_rank,
    ),
    TableColumn(
        "ELBO",
        "Evidence lower bound in nats per datum ± standard error over data.",
        {"elbo": _mean_over("elbo", 0)},
        show_estimate("elbo", format_interval),
    ),
    TableColumn(
        "summed-out ELBO",
        "The tighter bound in which the guide's enumerated sites are summed out, so that their q is not in it, in nats "
        "per datum ± standard error over data.",
        {"summed_out_elbo": _mean_over("summed_out_elbo", 0)},
        show_estimate("summed_out_elbo", format_interval),
        optional=True,
    ),
    TableColumn(
        "gap",
        "Log evidence minus ELBO in nats per datum ± standard error over data: the loss due to the guide.",
        {"gap": _gap},
        show_estimate("gap", format_interval),
    ),
    TableColumn(
        "k-hat > 0.7",
        "Share of data whose Pareto k-hat is above 0.7. Their log evidence is estimated too low, and the standard "
        "error does not show by how much.",
        {"bad_khat": _bad_khat},
        show_estimate("bad_khat", lambda estimate: format_percentage(estimate.value, decimals=1)),
        heading="k-hat>0.7",
    ),
    TableColumn(
        "ESS",
        "Effective sample size as a share of the particles: median over data; in brackets, the 5% quantile.",
        {"ess_median": _ess_median, "ess_low": _ess_low},
        _show_ess,
        heading="ESS (5%)",
    ),
    TableColumn(
        "units",
        "Number of active latent units, mean over seeds.",
        {"active_units": mean_over_seeds("active_units")},
        show_estimate("active_units", lambda estimate: f"{estimate.value:.3g}"),
    ),
    TableColumn(
        "training",
        "Wall-clock time of one training, mean over seeds.",
        # The name of the attribute of `Row` is older than that of the score.
        {"seconds": mean_over_seeds("training_seconds"), "epochs": mean_over_seeds("epochs")},
        show_estimate("seconds", lambda estimate: format_duration(estimate.value)),
    ),
    TableColumn(
        "evaluations",
        "Decoder evaluations in one training: particles x data x epochs.",
        {"decoder_evaluations": mean_over_seeds("decoder_evaluations")},
        show_estimate("decoder_evaluations", lambda estimate: format_count(estimate.value)),
    ),
)
