"""The columns of evidences by annealing: importance sampling, the gap on simulated data, and the status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pvae.comparison.number_formats import UNKNOWN, format_interval
from pvae.comparison.table.row import Row
from pvae.comparison.table.row_outcomes import RowOutcomes
from pvae.comparison.table.table_column import CellText, TableColumn, show_estimate
from pvae.evaluate import Estimate
from pvae.evaluate.finding import worst_status

__all__ = ["ANNEALING_COLUMNS"]


def _findings(outcomes: RowOutcomes) -> list[Mapping[str, Any]]:
    """Return the findings of the annealing of all seeds."""
    found = [outcome.scores.get("annealing") for outcome in outcomes.finished]
    return [finding for finding in found if finding]


def _importance_sampling(outcomes: RowOutcomes) -> Estimate | None:
    values = outcomes.pointwise("importance_sampling")
    return None if values is None else Estimate.mean_of(values.mean(dim=0))


def _shortfall(outcomes: RowOutcomes) -> Estimate | None:
    """Return the lower estimate minus importance sampling, error over data."""
    lower, sampled = outcomes.pointwise("log_evidence"), outcomes.pointwise("importance_sampling")
    return None if lower is None or sampled is None else Estimate.mean_of((lower - sampled).mean(dim=0))


def _simulated_gap(outcomes: RowOutcomes) -> Estimate | None:
    """Return the mean gap on simulated data, error over data of all seeds; None if a seed has none."""
    gaps = [(finding.get("on_simulated") or {}).get("gap") for finding in _findings(outcomes)]
    known = [gap for gap in gaps if gap]
    if not known or len(known) < len(outcomes.finished):
        return None
    # A single datum has no error; the file contains null.
    errors = [float("nan") if gap["error"] is None else gap["error"] for gap in known]
    error = float(torch.tensor(errors, dtype=torch.float64).square().sum().sqrt()) / len(known)
    return Estimate(sum(gap["value"] for gap in known) / len(known), error, sum(gap["count"] for gap in known))


def _method(outcomes: RowOutcomes) -> str | None:
    return next((str(finding["method"]) for finding in _findings(outcomes)), None)


def _start(outcomes: RowOutcomes) -> str | None:
    """Return the start of the chains."""
    settings = [finding.get("settings") or {} for finding in _findings(outcomes)]
    return next((str(chosen["start"]) for chosen in settings if "start" in chosen), None)


def _status(outcomes: RowOutcomes) -> str | None:
    """Return the worst status of the annealing over seeds."""
    found = _findings(outcomes)
    return worst_status(str(finding["status"]) for finding in found) if found else None


def _show_gap(row: Row, is_first: bool) -> CellText:
    gap = row.additional.get("simulated_gap")
    status = row.additional.get("annealing_status") or ""
    if gap is None:
        return CellText(UNKNOWN, f"({status})" if status else "")
    return CellText(format_interval(gap), f"({status})", gap.value)


ANNEALING_COLUMNS: tuple[TableColumn, ...] = (
    TableColumn(
        "IS",
        "The log evidence by importance sampling, for comparison, in nats per datum ± standard error over data.",
        {"importance_sampling": _importance_sampling, "shortfall": _shortfall},
        show_estimate("importance_sampling", format_interval),
        optional=True,
    ),
    TableColumn(
        "gap on simulated",
        "Upper minus lower estimate on data simulated from the model, where both are rigorous in expectation, in nats "
        "per datum ± standard error over data; in brackets, the status of the annealing: fine if this gap and the gap "
        "on the test data are at most 0.1 nats.",
        {
            "simulated_gap": _simulated_gap,
            "annealing_status": _status,
            "annealing_method": _method,
            "annealing_start": _start,
        },
        _show_gap,
        optional=True,
    ),
)
"""Columns that a table leaves out if the evidence is only by importance sampling."""
