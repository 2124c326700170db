"""The columns of the difference to the first row, of the bias of the log evidence, and of unfinished training."""

from __future__ import annotations

import math
from collections.abc import Callable

from pvae.comparison.number_formats import UNKNOWN, format_bracket, format_interval, format_number
from pvae.comparison.table.gain_left import gain_left, is_unfinished
from pvae.comparison.table.row import Row
from pvae.comparison.table.row_outcomes import RowOutcomes
from pvae.comparison.table.table_column import CellText, TableColumn, show_estimate
from pvae.evaluate import Estimate

__all__ = ["DIFFERENCE_COLUMNS"]


def _bias(outcomes: RowOutcomes) -> Estimate | None:
    bias = outcomes.pointwise("bias")
    return None if bias is None else Estimate.mean_of(bias.mean(dim=0))


def _show_bias(row: Row, is_first: bool) -> CellText:
    cell = show_estimate("bias", format_interval)(row, is_first)
    note = "" if row.bias_margin is None else f"(margin {format_number(row.bias_margin, 3)})"
    return CellText(cell.text, note, cell.order)


def _difference(outcomes: RowOutcomes) -> Estimate | None:
    difference = outcomes.paired_difference()
    return None if difference is None else Estimate.mean_of(difference.mean(dim=0))


def _difference_over_seeds(outcomes: RowOutcomes) -> Estimate | None:
    difference = outcomes.paired_difference()
    return None if difference is None else Estimate.mean_of(difference.mean(dim=1))


def _difference_error(outcomes: RowOutcomes) -> float:
    return math.nan if outcomes.difference is None else float(outcomes.difference.error)


def _degrees(outcomes: RowOutcomes) -> int | None:
    return None if outcomes.difference is None else outcomes.difference.degrees


def _p_value(outcomes: RowOutcomes) -> float | None:
    if outcomes.bracket_difference is not None:
        return outcomes.bracket_difference.p_value
    return None if outcomes.difference is None else float(outcomes.difference.p_value)


def _middle_p_value(outcomes: RowOutcomes) -> float:
    """Return the p-value of the difference of the middles of brackets; NaN without brackets."""
    if outcomes.bracket_difference is None or outcomes.difference is None:
        return math.nan
    return float(outcomes.difference.p_value)


def _end_of_difference(name: str) -> Callable[[RowOutcomes], Estimate | None]:
    """Return a statistic: the least (``"lower"``) or the largest difference that both brackets allow."""

    def statistic(outcomes: RowOutcomes) -> Estimate | None:
        if outcomes.bracket_difference is None:
            return None
        ends = {"lower": outcomes.bracket_difference.lower, "upper": outcomes.bracket_difference.upper}
        data = outcomes.bracket_difference.row.lower.shape[-1]
        return Estimate(float(ends[name].value), float(ends[name].error), data)

    return statistic


def _show_difference(row: Row, is_first: bool) -> CellText:
    if is_first:
        return CellText("first row", order=0.0)
    if row.difference is None:
        return CellText(UNKNOWN, "(not comparable)" if row.not_comparable else "")
    total = Estimate(row.difference.value, row.difference_error, row.difference.count)
    text = format_interval(total, sign=True)
    if row.difference_lower is not None and row.difference_upper is not None:
        text = format_bracket(row.difference_lower, row.difference_upper, sign=True)
    return CellText(text, f"({row.conclusion})", total.value)


def _show_p_value(row: Row, is_first: bool) -> CellText:
    value = row.adjusted_p_value
    if value is None or math.isnan(value):
        return CellText(UNKNOWN)
    return CellText("<0.0001" if value < 1e-4 else f"{value:.4f}", order=value)


def _gain_left(outcomes: RowOutcomes) -> Estimate | None:
    left = gain_left(outcomes.finished)
    return None if left is None else left.gain


def _show_gain_left(row: Row, is_first: bool) -> CellText:
    cell = show_estimate("gain_left", lambda estimate: format_interval(estimate, sign=True))(row, is_first)
    return CellText(cell.text, "(unfinished)" if row.unfinished else "", cell.order)


DIFFERENCE_COLUMNS: tuple[TableColumn, ...] = (
    TableColumn(
        "bias",
        "Estimated bias of the log evidence, from the rise of its bound between fewer and more particles, in nats per "
        "datum ± standard error over data; negative if the log evidence is too low. The margin is the further amount "
        "by which it may be too low, because the bound rises more slowly than 1/K for K particles.",
        {"bias": _bias, "bias_margin": lambda outcomes: outcomes.bias_margin()},
        _show_bias,
        optional=True,
    ),
    TableColumn(
        "difference",
        "Log evidence minus the log evidence of the first row, each without its bias if both are known, paired by "
        "datum and seed ± "
        "standard error over data and seeds; in brackets, the conclusion. For two-sided evidences, from the least to "
        "the largest difference that both brackets allow.",
        {
            "difference": _difference,
            "difference_over_seeds": _difference_over_seeds,
            "difference_error": _difference_error,
            "degrees": _degrees,
            "difference_lower": _end_of_difference("lower"),
            "difference_upper": _end_of_difference("upper"),
            "p_value": _p_value,
            "middle_p_value": _middle_p_value,
            "not_comparable": lambda outcomes: outcomes.reason_of_mismatch,
            "removes_bias": lambda outcomes: outcomes.removes_bias if outcomes.first_row else None,
        },
        _show_difference,
        heading="difference to first",
    ),
    TableColumn(
        "p-value",
        "p-value of the difference by Student's t, adjusted by Holm for all rows: if it is at most 0.05 in the rows "
        "that are named, the probability of any wrong name is at most 5% for equal rows.",
        {},
        _show_p_value,
    ),
    TableColumn(
        "gain left",
        "The expected further rise of the validation bound: its slope in the last fifth of training, times the epochs "
        "that are left of the patience (without a patience, the number of epochs in this fifth), in nats per datum ± "
        "standard error. A row whose gain is above 0 is unfinished.",
        {"gain_left": _gain_left, "unfinished": lambda outcomes: is_unfinished(gain_left(outcomes.finished))},
        _show_gain_left,
        optional=True,
    ),
)
