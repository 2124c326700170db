"""From outcomes to rows: means over seeds, errors over data, paired differences to the first row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pvae.comparison.base import Outcome
from pvae.errors import InputError
from pvae.evaluate import Estimate, compare_evidence

__all__ = ["BAD_KHAT", "Row", "make_rows", "ranked"]

BAD_KHAT = 0.7


@dataclass(frozen=True)
class Row:
    """One model under one objective: means over the seeds that finished.

    Evidences are nats per datum. An error over data is that of the seed-averaged pointwise values, and speaks
    of these trained models on other data; an error over seeds speaks of other trainings on these data.

    Attributes:
        model: name of the model.
        objective: name of the objective.
        biased: why its gradient is biased, in a few words; empty where it is not.
        seeds: seeds that finished.
        failures: why the others did not, one line each.
        log_evidence: importance-sampled estimate of log p(x), error over data.
        evidence_over_seeds: the same mean, error over seeds.
        spread: standard deviation of log evidence over seeds; NaN for one seed.
        elbo: evidence lower bound, error over data.
        gap: log evidence minus ELBO, error over data.
        bad_khat: share of data whose Pareto k-hat is above 0.7, error over data.
        ess_median: median over data of the effective sample size as a share of particles, error over seeds.
        ess_low: the same at its 5% quantile.
        active_units: latent units in use, error over seeds.
        seconds: wall time of training, error over seeds.
        decoder_evaluations: particles x data x epochs of training, error over seeds.
        difference: log evidence minus the first row's, paired by datum, error over data; None in the first.
        difference_over_seeds: the same, paired by seed, error over seeds.
        rank: place by ``az.compare`` on pointwise log evidence, 0 is best; None where it was not ranked.
    """

    model: str
    objective: str
    seeds: tuple[int, ...]
    failures: tuple[str, ...]
    log_evidence: Estimate | None = None
    evidence_over_seeds: Estimate | None = None
    spread: float = math.nan
    elbo: Estimate | None = None
    gap: Estimate | None = None
    bad_khat: Estimate | None = None
    ess_median: Estimate | None = None
    ess_low: Estimate | None = None
    active_units: Estimate | None = None
    seconds: Estimate | None = None
    decoder_evaluations: Estimate | None = None
    difference: Estimate | None = None
    difference_over_seeds: Estimate | None = None
    rank: int | None = None
    biased: str = ""

    @property
    def total_error(self) -> float:
        """Error of ``difference`` over data and, from two seeds on, over seeds: root of summed squares."""
        parts = [each.error for each in (self.difference, self.difference_over_seeds) if each is not None]
        return math.hypot(*(part for part in parts if math.isfinite(part))) if parts else math.nan

    def to_json(self) -> dict[str, Any]:
        """Return names, estimates as value, error and count, and plain numbers."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.to_json()
    if isinstance(value, tuple):
        return list(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def make_rows(outcomes: Sequence[Outcome]) -> tuple[Row, ...]:
    """Return a row per model and objective, in the order of the outcomes, with differences to the first row.

    Where seeds of one row failed, a difference is over the seeds that both rows have.

    Args:
        outcomes: those of all cells, judged on the same data in the same order.
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.cell.model, outcome.cell.objective), []).append(outcome)
    members = list(groups.values())
    rows = [_row(group) for group in members]
    return (
        *rows[:1],
        *(_compared(row, group, members[0]) for row, group in zip(rows[1:], members[1:], strict=True)),
    )


def ranked(outcomes: Sequence[Outcome], particles: int) -> tuple[Row, ...]:
    """Return the rows of `make_rows` with their place by ``az.compare`` on pointwise log evidence.

    Args:
        outcomes: those of all cells.
        particles: draws of z per datum behind the evidences.
    """
    rows = make_rows(outcomes)
    judged = {}
    for index, row in enumerate(rows):
        good = [each for each in outcomes if _is_of(each, row)]
        if good:
            points, khat = _stack(good, "log_evidence").mean(dim=0), _stack(good, "khat").mean(dim=0)
            judged[str(index)] = (points, khat, particles)
    if len(judged) < 2:
        return rows
    try:
        places = compare_evidence(judged)["rank"]
    except InputError:  # an evidence that is not finite: the table shows it, and no rank
        return rows
    return tuple(
        replace(row, rank=int(places[str(index)])) if str(index) in judged else row for index, row in enumerate(rows)
    )


def _is_of(outcome: Outcome, row: Row) -> bool:
    return not outcome.failure and (outcome.cell.model, outcome.cell.objective) == (row.model, row.objective)


def _row(group: Sequence[Outcome]) -> Row:
    cell = group[0].cell
    good = [outcome for outcome in group if not outcome.failure]
    failures = tuple(f"seed {each.cell.seed}: {each.failure}" for each in group if each.failure)
    row = Row(cell.model, cell.objective, tuple(each.cell.seed for each in good), failures)
    row = replace(row, biased=str(cell.config.get("biased", "")))
    if not good:
        return row
    points = {name: _stack(good, name) for name in ("log_evidence", "elbo", "khat", "ess")}
    evidence, elbo = points["log_evidence"], points["elbo"]
    over_seeds = Estimate.mean_of(evidence.mean(dim=1))
    return replace(
        row,
        log_evidence=Estimate.mean_of(evidence.mean(dim=0)),
        evidence_over_seeds=over_seeds,
        spread=over_seeds.error * math.sqrt(len(good)),
        elbo=Estimate.mean_of(elbo.mean(dim=0)),
        gap=Estimate.mean_of((evidence - elbo).mean(dim=0)),
        bad_khat=_bad(points["khat"]),
        ess_median=Estimate.mean_of(points["ess"].median(dim=1).values),
        ess_low=Estimate.mean_of(points["ess"].quantile(0.05, dim=1)),
        active_units=_over_seeds(good, "active_units"),
        seconds=_over_seeds(good, "seconds"),
        decoder_evaluations=_over_seeds(good, "decoder_evaluations"),
    )


def _compared(row: Row, group: Sequence[Outcome], first: Sequence[Outcome]) -> Row:
    seeds = {each.cell.seed for each in first if not each.failure}
    shared = [each for each in group if not each.failure and each.cell.seed in seeds]
    if not shared:
        return row
    chosen = {each.cell.seed for each in shared}
    base = [each for each in first if each.cell.seed in chosen and not each.failure]
    delta = _stack(sorted(shared, key=_seed), "log_evidence") - _stack(sorted(base, key=_seed), "log_evidence")
    return replace(
        row,
        difference=Estimate.mean_of(delta.mean(dim=0)),
        difference_over_seeds=Estimate.mean_of(delta.mean(dim=1)),
    )


def _bad(khat: Tensor) -> Estimate | None:
    """Return the share of data above the limit; None where k-hat is unknown (too few particles)."""
    return None if khat.isnan().any() else Estimate.mean_of((khat > BAD_KHAT).double().mean(dim=0))


def _seed(outcome: Outcome) -> int:
    return outcome.cell.seed


def _stack(outcomes: Sequence[Outcome], name: str) -> Tensor:
    """Return a pointwise number of several seeds, (seeds, data), float64."""
    return torch.stack([each.pointwise[name].double() for each in outcomes])


def _over_seeds(outcomes: Sequence[Outcome], name: str) -> Estimate | None:
    values = [each.scores.get(name) for each in outcomes]
    known = [float(value) for value in values if value is not None]
    return Estimate.mean_of(torch.tensor(known, dtype=torch.float64)) if known else None
