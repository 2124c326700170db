"""The columns of the comparison table. To add a column, add one `TableColumn` to `COLUMNS`.

The text table, the JSON files and the page take the columns from this list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from pvae.comparison.cells.training_summary import read_score
from pvae.comparison.number_formats import (
    UNKNOWN,
    format_bracket,
    format_count,
    format_duration,
    format_interval,
    format_number,
    format_percentage,
)
from pvae.comparison.table.annealing_columns import ANNEALING_COLUMNS
from pvae.comparison.table.difference_columns import DIFFERENCE_COLUMNS
from pvae.comparison.table.row import Row
from pvae.comparison.table.row_outcomes import RowOutcomes, mean_over_seeds
from pvae.comparison.table.table_column import CellText, TableColumn, show_estimate
from pvae.comparison.table.trust_columns import TRUST_COLUMNS
from pvae.evaluate import Estimate
from pvae.evaluate.arviz_versions import good_khat

__all__ = ["COLUMNS", "CellText", "TableColumn", "cell_text", "show_estimate", "shown_columns"]


def shown_columns(rows: Sequence[Row]) -> list[TableColumn]:
    """Return the columns of a table of these rows, without optional columns that are empty."""
    return [
        column
        for column in COLUMNS
        if not column.optional or any(_has_value(row, name) for row in rows for name in column.statistics)
    ]


def _has_value(row: Row, name: str) -> bool:
    value = row.additional[name] if name in row.additional else getattr(row, name, None)
    return value is not None and value is not False


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
        dim: the dimension of the first mean; the error is the error of the second mean.
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
    if row.log_evidence is None or row.log_evidence_upper is None:
        return CellText(cell.text, note, cell.order)
    return CellText(format_bracket(row.log_evidence, row.log_evidence_upper), note, cell.order)


def _show_rank(row: Row, is_first: bool) -> CellText:
    return CellText(UNKNOWN) if row.rank is None else CellText(str(row.rank), order=float(row.rank))


def _gap(outcomes: RowOutcomes) -> Estimate | None:
    log_evidence, elbo = outcomes.pointwise("log_evidence"), outcomes.pointwise("elbo")
    return None if log_evidence is None or elbo is None else Estimate.mean_of((log_evidence - elbo).mean(dim=0))


def _bad_khat(outcomes: RowOutcomes) -> Estimate | None:
    khat = outcomes.pointwise("khat")
    particles = [read_score(outcome.scores, "particles") for outcome in outcomes.finished]
    if khat is None or khat.isnan().any() or None in particles:  # no weights, or too few particles for an estimate
        return None
    limits = torch.tensor([good_khat(int(count)) for count in particles], dtype=torch.float64)
    return Estimate.mean_of((khat > limits[:, None]).double().mean(dim=0))


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
        "log p(x) in nats per datum, by importance sampling or by annealed importance sampling (the lower and, of a "
        "sandwich, the upper estimate); higher is better. Mean over seeds ± standard error over data; in brackets, the "
        "standard deviation over seeds. A model without a log weight for each datum has none.",
        {
            "log_evidence": _mean_over("log_evidence", 0),
            "log_evidence_upper": _mean_over("upper", 0),
            "evidence_over_seeds": _evidence_over_seeds,
            "spread": _spread,
        },
        _show_log_evidence,
        heading="log evidence (sd)",
    ),
    *ANNEALING_COLUMNS,
    *DIFFERENCE_COLUMNS,
    TableColumn(
        "rank",
        "Rank by the function compare of ArviZ on the pointwise log evidence without its bias, averaged over seeds; 1 "
        "is best. A rank has no error; see the p-value.",
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
        "The tighter bound in which the guide's enumerated sites are summed out, so their q is not part of it, in nats "
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
        "bad k-hat",
        "Share of data with a Pareto k-hat above min(1 - 1 / log10(K), 0.7) for K particles. The estimate of their log "
        "evidence is too low, by an amount that the standard error does not include.",
        {"bad_khat": _bad_khat},
        show_estimate("bad_khat", lambda estimate: format_percentage(estimate.value, decimals=1)),
    ),
    TableColumn(
        "ESS",
        "Effective sample size as a share of the particles: median over data; in brackets, the 5% quantile.",
        {"ess_median": _ess_median, "ess_low": _ess_low},
        _show_ess,
        heading="ESS (5%)",
    ),
    *TRUST_COLUMNS,
    TableColumn(
        "units",
        "Number of active latent units, mean over seeds.",
        {"active_units": mean_over_seeds("active_units")},
        show_estimate("active_units", lambda estimate: f"{estimate.value:.3g}"),
    ),
    TableColumn(
        "training",
        "Wall-clock time of one training without its validation, mean over seeds.",
        {
            "training_seconds": mean_over_seeds("training_seconds"),
            "evaluation_seconds": mean_over_seeds("evaluation_seconds"),
            "epochs": mean_over_seeds("epochs"),
        },
        show_estimate("training_seconds", lambda estimate: format_duration(estimate.value)),
    ),
    TableColumn(
        "evaluations",
        "Decoder evaluations in one training: particles x data x epochs.",
        {"decoder_evaluations": mean_over_seeds("decoder_evaluations")},
        show_estimate("decoder_evaluations", lambda estimate: format_count(estimate.value)),
    ),
)
