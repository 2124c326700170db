"""The columns of the distance of the guide from the posterior, and of memorised training data."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.comparison.number_formats import format_percentage
from pvae.comparison.table.row import Row
from pvae.comparison.table.row_outcomes import RowOutcomes, Statistic
from pvae.comparison.table.table_column import CellText, TableColumn, show_estimate
from pvae.evaluate import Estimate
from pvae.evaluate.membership import MOST_MEMBERSHIP
from pvae.evaluate.weight_notes import LARGEST_KL

__all__ = ["TRUST_COLUMNS"]


def _quantile_of(name: str, level: float) -> Statistic:
    """Return a statistic: the quantile over data of a pointwise value, mean and error over seeds."""

    def statistic(outcomes: RowOutcomes) -> Estimate | None:
        values = outcomes.pointwise(name)
        if values is None or values.isnan().any():
            return None
        return Estimate.mean_of(_element_at(values, level))

    return statistic


def _element_at(values: Tensor, level: float) -> Tensor:
    """Return an element of the data, because interpolation between infinities gives NaN, shape (seeds,)."""
    place = round(level * (values.shape[1] - 1))
    return values.sort(1).values[:, place]


def _far_data(outcomes: RowOutcomes) -> Estimate | None:
    """Return the share of data with a large KL(q to p(z given x)), error over data."""
    values = outcomes.pointwise("kl")
    if values is None or values.isnan().any():
        return None
    return Estimate.mean_of((values > LARGEST_KL).double().mean(dim=0))


def _membership(outcomes: RowOutcomes) -> Estimate | None:
    """Return the mean membership over seeds, with the error over data of the seeds."""
    found = [outcome.scores.get("membership") for outcome in outcomes.finished]
    known = [entry for entry in found if entry and entry.get("value") is not None]
    if not known or len(known) < len(found):
        return None
    errors = torch.tensor([float("nan") if entry["error"] is None else entry["error"] for entry in known])
    # The seeds share the data, so averaging over seeds does not reduce the error over data.
    return Estimate(sum(entry["value"] for entry in known) / len(known), float(errors.mean()), known[0]["count"])


def _show_variance(row: Row, is_first: bool) -> CellText:
    cell = show_estimate("variance_median", lambda estimate: f"{estimate.value:.3g}")(row, is_first)
    high = row.additional.get("variance_high")
    return CellText(cell.text, "" if high is None else f"({high.value:.3g})", cell.order)


def _show_accuracy(row: Row, is_first: bool) -> CellText:
    cell = show_estimate("accuracy_median", lambda estimate: format_percentage(estimate.value))(row, is_first)
    high = row.additional.get("accuracy_high")
    return CellText(cell.text, "" if high is None else f"({format_percentage(high.value)})", cell.order)


TRUST_COLUMNS: tuple[TableColumn, ...] = (
    TableColumn(
        "Var log w",
        "Variance of the log weights of a datum: median over data; in brackets, the 95% quantile. 0 if the guide is "
        "the posterior.",
        {
            "variance_median": _quantile_of("log_weight_variance", 0.5),
            "variance_high": _quantile_of("log_weight_variance", 0.95),
            "far_data": _far_data,
        },
        _show_variance,
        optional=True,
        page_only=True,
    ),
    TableColumn(
        "classifier",
        "Accuracy of the best classifier between draws of the guide and of the posterior: median over data; in "
        "brackets, the 95% quantile. 50% if they are equal. The weights do not show a mode that the guide never draws.",
        {
            "accuracy_median": _quantile_of("classifier_accuracy", 0.5),
            "accuracy_high": _quantile_of("classifier_accuracy", 0.95),
        },
        _show_accuracy,
        optional=True,
        page_only=True,
    ),
    TableColumn(
        "train over test",
        "Probability that a training datum has a larger ELBO than a test datum: 50% if both have the same "
        f"distribution. Above {MOST_MEMBERSHIP:.0%} the training data count as memorised.",
        {"membership": _membership},
        show_estimate("membership", lambda estimate: format_percentage(estimate.value)),
        optional=True,
        page_only=True,
    ),
)
"""Columns that a table leaves out if no row has a value."""
