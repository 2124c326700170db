"""The log evidence of a cell by annealed importance sampling, in one or in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.comparison.cells.drawings import SEED
from pvae.comparison.cells.plan import Job
from pvae.data import Splits
from pvae.evaluate import AnnealedEvidence, Sandwich
from pvae.evaluate.annealing.two_sided import ais_of_context, sandwich_of_context
from pvae.evaluate.evaluation_context import evaluation_context
from pvae.evaluate.finding import EvaluationSteps
from pvae.train import Run

__all__ = ["AnnealedCell", "anneal_cell"]


@dataclass(frozen=True)
class AnnealedCell:
    """The log evidence of a cell by annealing.

    Attributes:
        summary: the estimate in one line for the terminal.
        scores: entries of ``evaluation.json``: the lower estimate as ``log_evidence``, and the whole finding as
            ``annealing``.
        pointwise: one number for each test datum, shape (data,): ``log_evidence`` and its Monte-Carlo error
            ``lower_noise``; for a sandwich, also ``upper`` and ``upper_noise``.
    """

    summary: str
    scores: Mapping[str, Any]
    pointwise: Mapping[str, Tensor]


class _ReportedSteps(EvaluationSteps):
    """Counts decoder evaluations, and reports each percent.

    Args:
        expected: the expected number of decoder evaluations.
        report: called with a few words on the progress.
    """

    def __init__(self, expected: int, report: Callable[[str], None]) -> None:
        super().__init__()
        self._expected, self._report, self._percent = max(1, expected), report, 0

    def advance(self, evaluations: int) -> None:
        """Count more evaluations as done."""
        super().advance(evaluations)
        percent = min(100, 100 * self.done // self._expected)
        if percent > self._percent:
            self._percent = percent
            self._report(f"annealing, {percent}% of {self._expected:.3g} decoder evaluations")


def anneal_cell(run: Run, splits: Splits, job: Job, report: Callable[[str], None]) -> AnnealedCell:
    """Return the log evidence of a trained model on the test data, by the method of the job.

    Args:
        run: the training.
        splits: the data.
        job: the cell with the options of the evaluation.
        report: called with a few words on the progress of the evaluation.

    Raises:
        InputError: if the model cannot be annealed.
    """
    settings = job.evidence.annealing()
    with torch.no_grad(), evaluation_context(run, splits, limit=job.limit, seed=SEED) as context:
        steps = _ReportedSteps(job.evidence.cost(context.batch.size), report)
        function = ais_of_context if job.evidence.name == "ais" else sandwich_of_context
        finding = function(context, settings, steps)
    scores = {"annealing": {"method": job.evidence.text, **finding.to_json()}}
    if isinstance(finding, Sandwich):
        return _of_sandwich(finding, scores)
    return _of_lower_estimate(finding, scores)


def _of_sandwich(finding: Sandwich, scores: Mapping[str, Any]) -> AnnealedCell:
    lower, upper = _values(finding.lower.pointwise), _values(finding.upper.pointwise)
    pointwise = {"log_evidence": lower, "upper": upper}
    pointwise |= {"lower_noise": finding.lower_noise, "upper_noise": finding.upper_noise}
    summary = f"log evidence from {finding.lower} to {finding.upper}"
    return AnnealedCell(summary, {"log_evidence": finding.lower.to_json(), **scores}, pointwise)


def _of_lower_estimate(finding: AnnealedEvidence, scores: Mapping[str, Any]) -> AnnealedCell:
    pointwise = {"log_evidence": _values(finding.pointwise), "lower_noise": finding.noise}
    summary = f"log evidence at least {finding.estimate}"
    return AnnealedCell(summary, {"log_evidence": finding.estimate.to_json(), **scores}, pointwise)


def _values(pointwise: Tensor | None) -> Tensor:
    return torch.zeros(0) if pointwise is None else pointwise
