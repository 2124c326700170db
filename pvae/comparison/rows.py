"""Make the rows of the comparison table from the outcomes of all cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pvae.comparison.base import Outcome
from pvae.comparison.cells.plan import BIASED
from pvae.comparison.table.columns import COLUMNS
from pvae.comparison.table.conclusions import conclude
from pvae.comparison.table.rankings import Ranking, make_rankings
from pvae.comparison.table.row import Row, make_row
from pvae.comparison.table.row_outcomes import RowOutcomes, stack_pointwise
from pvae.errors import InputError
from pvae.evaluate import compare_evidence
from pvae.evaluate.holm import adjust_by_holm

__all__ = ["finished", "make_ranked_rows", "make_rows", "rankings_of"]


def make_rows(outcomes: Sequence[Outcome]) -> tuple[Row, ...]:
    """Return one row for each model and objective, in the order of the outcomes, without ranks.

    A difference to the first row uses the seeds that finished in both rows.

    Args:
        outcomes: the outcomes of all cells, evaluated on the same data in the same order.
    """
    return _rows_of(_group_by_row(outcomes), {})


def make_ranked_rows(outcomes: Sequence[Outcome], particles: int) -> tuple[Row, ...]:
    """Return the rows of `make_rows`, ranked by ``az.compare`` on the pointwise log evidence.

    Only rows with a log evidence of each datum have a rank. There are no ranks if there are fewer than two of them, if
    an evidence is not finite, or if the evidences of two rows cannot be compared.

    Args:
        outcomes: the outcomes of all cells.
        particles: draws of z per datum of the estimates of the evidence.
    """
    groups = _group_by_row(outcomes)
    return _rows_of(groups, _rank(groups, particles) if _are_comparable(groups) else {})


def rankings_of(outcomes: Sequence[Outcome]) -> tuple[Ranking, ...]:
    """Return the rankings by the validation bound at equal epochs, training time and decoder evaluations.

    There are none if the densities of two rows cannot be compared.

    Args:
        outcomes: the outcomes of all cells; the rankings have the rows of `make_rows`.
    """
    groups = _group_by_row(outcomes)
    return make_rankings(list(map(finished, groups))) if _are_comparable(groups) else ()


def _are_comparable(groups: Sequence[Sequence[Outcome]]) -> bool:
    """Return whether the log evidences of all rows with a finished training are densities of the same values."""
    members = [members for group in groups if (members := finished(group))]
    return not any(RowOutcomes(row, members[0]).reason_of_mismatch for row in members[1:])


def finished(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes that are not failures."""
    return [outcome for outcome in outcomes if not outcome.failure]


def _group_by_row(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.cell.model, outcome.cell.objective), []).append(outcome)
    return list(groups.values())


def _rank(groups: Sequence[Sequence[Outcome]], particles: int) -> dict[int, int]:
    """Return the rank of each group by its index; 1 is best."""
    evidences = {}
    for index, group in enumerate(groups):
        members = finished(group)
        log_evidence, khat, bias = (stack_pointwise(members, name) for name in ("log_evidence", "khat", "bias"))
        if log_evidence is not None and khat is not None:
            evidences[str(index)] = log_evidence.mean(dim=0), khat.mean(dim=0), bias
    if len(evidences) < 2:
        return {}
    knows_biases = all(bias is not None for _, _, bias in evidences.values())
    judged = {
        name: (evidence - bias.mean(dim=0) if knows_biases and bias is not None else evidence, khat, particles)
        for name, (evidence, khat, bias) in evidences.items()
    }
    try:
        ranks = compare_evidence(judged)["rank"]
    except InputError:  # an evidence is not finite, which the table shows
        return {}
    return {int(index): int(ranks[index]) for index in evidences}


def _rows_of(groups: Sequence[Sequence[Outcome]], ranks: Mapping[int, int]) -> tuple[Row, ...]:
    first_row = finished(groups[0]) if groups else []
    rows = [_row_values(group, first_row if index else [], ranks.get(index)) for index, group in enumerate(groups)]
    _add_conclusions(rows)
    return tuple(map(make_row, rows))


def _add_conclusions(rows: Sequence[dict[str, Any]]) -> None:
    """Add to each row with a difference its p-value, adjusted for all rows, and its conclusion."""
    compared = [row for row in rows[1:] if row.get("difference") is not None]
    adjusted, of_middles = (
        adjust_by_holm(torch.tensor([row[name] for row in compared], dtype=torch.float64)).tolist()
        for name in ("p_value", "middle_p_value")
    )
    for row, p_value, middle in zip(compared, adjusted, of_middles, strict=True):
        margins = [values.get("bias_margin") for values in (rows[0], row)]
        known = [margin for margin in margins if margin is not None]
        margin = max(known) if row["removes_bias"] and len(known) == len(margins) else None
        row["adjusted_p_value"] = p_value
        row["conclusion"] = conclude(row["difference"].value, p_value, margin, middle)


def _reason_of_bias(group: Sequence[Outcome]) -> str:
    """Return why the gradient was biased in a training of the group, declared by the objective or found in use."""
    reasons = [str(outcome.scores.get(BIASED) or "") for outcome in finished(group)]
    return next(filter(None, reasons), str(group[0].cell.config.get(BIASED, "")))


def _row_values(group: Sequence[Outcome], first_row: Sequence[Outcome], rank: int | None) -> dict[str, Any]:
    cell = group[0].cell
    members = finished(group)
    values: dict[str, Any] = {
        "model": cell.model,
        "objective": cell.objective,
        "seeds": tuple(outcome.cell.seed for outcome in members),
        "failures": tuple(f"seed {outcome.cell.seed}: {outcome.failure}" for outcome in group if outcome.failure),
        "biased": _reason_of_bias(group),
    }
    if members:
        outcomes = RowOutcomes(members, first_row, rank)
        for column in COLUMNS:
            values |= {name: statistic(outcomes) for name, statistic in column.statistics.items()}
    return values
