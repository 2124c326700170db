"""Evaluate the trained model of a cell by its log weights, or only by its ELBO if it has no weight per datum."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pvae.comparison.cells.annealed_cell import anneal_cell
from pvae.comparison.cells.drawings import SEED
from pvae.comparison.cells.plan import Job
from pvae.comparison.cells.scored_data import SCORED_DATA, scored_data_of
from pvae.data import Splits
from pvae.errors import InputError
from pvae.evaluate import Estimate, Judgement, LatentUnits, elbo, judge
from pvae.train import Run

__all__ = ["CellEvaluation", "evaluate_cell"]


@dataclass(frozen=True)
class CellEvaluation:
    """The evaluation of one trained model.

    Attributes:
        summary: the estimate in one line for the terminal.
        scores: entries of ``evaluation.json``.
        pointwise: one number for each test datum, shape (data,); without weights per datum only ``elbo``.
        latents: KL per unit and activity by site; empty without weights per datum.
        notes: notes on results that are left out or not reliable.
    """

    summary: str
    scores: Mapping[str, Any]
    pointwise: Mapping[str, Tensor]
    latents: Mapping[str, LatentUnits]
    notes: tuple[str, ...]


def evaluate_cell(run: Run, splits: Splits, job: Job, report: Callable[[str], None]) -> CellEvaluation:
    """Return the evaluation of a trained model on the test data.

    If all data share a latent site, such as the weights of a regression, there is no log evidence of each datum. The
    evaluation is then the ELBO of all data divided by their number.

    Args:
        run: the training.
        splits: the data.
        job: the cell with the options of the evaluation.
        report: called with a few words on the progress of a long evaluation.

    Raises:
        InputError: if there is no ELBO either, for example because the guide is a point estimate.
    """
    try:
        judgement = judge(run, splits, job.particles, limit=job.limit, seed=SEED)
    except InputError as error:
        return _evaluate_elbo(run, splits, job, reason=str(error))
    evaluation = CellEvaluation(
        summary=f"log evidence {judgement.log_evidence}",
        scores={
            **judgement.to_json(),
            "active_units": judgement.active_units,
            SCORED_DATA: None if (scored := scored_data_of(run, splits, job.limit)) is None else scored.to_json(),
        },
        pointwise=_pointwise_values(judgement),
        latents=judgement.diagnosis.latents,
        notes=judgement.notes,
    )
    return _annealed(evaluation, run, splits, job, report) if job.evidence.anneals else evaluation


def _annealed(
    evaluation: CellEvaluation, run: Run, splits: Splits, job: Job, report: Callable[[str], None]
) -> CellEvaluation:
    """Return the evaluation with the log evidence by annealing, in addition to importance sampling.

    The notes on the weights are left out, because the verdict then does not use importance sampling.
    """
    annealed = anneal_cell(run, splits, job, report)
    elbo_of_data = evaluation.pointwise["elbo"]
    sampled = {
        "importance_sampling": evaluation.scores["log_evidence"],
        "importance_bias": evaluation.scores["bias"],
        "bias": None,
        "gap": Estimate.mean_of(annealed.pointwise["log_evidence"] - elbo_of_data).to_json(),
    }
    pointwise = {name: values for name, values in evaluation.pointwise.items() if name != "bias"}
    pointwise["importance_sampling"] = pointwise["log_evidence"]
    return replace(
        evaluation,
        summary=annealed.summary,
        scores={**evaluation.scores, **sampled, **annealed.scores},
        pointwise={**pointwise, **annealed.pointwise},
    )


def _pointwise_values(judgement: Judgement) -> dict[str, Tensor]:
    values = {
        "log_evidence": judgement.log_evidence.pointwise,
        "bias": None if judgement.bias is None else judgement.bias.pointwise,
        "elbo": judgement.elbo.pointwise,
        "summed_out_elbo": None if judgement.summed_out_elbo is None else judgement.summed_out_elbo.pointwise,
        "khat": judgement.khat,
        "ess": judgement.ess.double() / judgement.particles,
    }
    if judgement.trust is not None:
        values["kl"] = judgement.trust.kl
        values["log_weight_variance"] = judgement.trust.log_weight_variance
        values["classifier_accuracy"] = judgement.trust.accuracy
    return {name: tensor for name, tensor in values.items() if tensor is not None}


def _evaluate_elbo(run: Run, splits: Splits, job: Job, reason: str) -> CellEvaluation:
    """Return an evaluation only by the ELBO; `reason` is the reason why there is no log evidence."""
    started = time.perf_counter()
    bound = elbo(run, splits, job.particles, limit=job.limit, seed=SEED)
    return CellEvaluation(
        summary=f"ELBO {bound}",
        scores={
            "elbo": bound.to_json(),
            "active_units": None,
            "data": bound.count,
            "seed": SEED,
            "evaluation_seconds": time.perf_counter() - started,
        },
        pointwise={} if bound.pointwise is None else {"elbo": bound.pointwise},
        latents={},
        notes=(f"no log evidence: {reason}",),
    )
