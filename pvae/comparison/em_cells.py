"""EM among the objectives of a comparison: its run, and how the others come to the same mixture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.comparison.base import Outcome
from pvae.data import Splits
from pvae.em import Mixture, Prior, maximise, mixture_of, responsibilities
from pvae.errors import InputError
from pvae.models.mixture import GMM
from pvae.train import open_run

__all__ = ["Climb", "agreement", "fit_by_em", "matched", "told"]

#: EM has converged where a step gains less, nats per datum; the others are timed to within `CLOSE` of where it ends.
GAIN, CLOSE = 1e-7, 1e-3
STEPS = 2000
REGULARISATION = 1e-6


class Climb:
    """A callback of `pvae.fit` that keeps a mixture's exact log-likelihood of the training data after each epoch.

    Where the mixture has a prior, its log density per datum is added: what is climbed.

    Args:
        splits: the data.

    Attributes:
        points: (epoch, log-likelihood in nats per datum, seconds of training, without those of this).
    """

    def __init__(self, splits: Splits) -> None:
        self.x, self.points, self.spent = splits.train.x, [], 0.0  # type: ignore[var-annotated]

    def __call__(self, record: dict[str, Any], model: Any) -> None:
        """Look at the model, where it is a mixture."""
        if isinstance(model, GMM):
            begun = time.perf_counter()
            value = float(model.log_evidence(self.x.to(model.means)).double().mean()) + _share(model, len(self.x))
            self.points.append([record["epoch"], value, record["seconds"] - self.spent])
            self.spent += time.perf_counter() - begun


def fit_by_em(model: Any, splits: Splits) -> dict[str, Any]:
    """Fit a mixture in place by EM, from its own start; return what the table tells of it.

    With a prior this is MAP-EM. A network that guesses the component stays as it was: EM has no use for it.

    Raises:
        InputError: if the model has no closed-form M-step.
    """
    if not isinstance(model, GMM):
        raise InputError(
            f"em needs a model with a closed-form M-step, and {type(model).__name__} has none; use it with gmm."
        )
    model.initialise_from(splits.train)
    train = _flat(splits.train.x)
    held = train if splits.validation is None else _flat(splits.validation.x)
    kind, least = model.covariance, REGULARISATION * float(train.var(0, correction=0).mean())
    mixture, prior = mixture_of(*model.parameters_of_mixture(), kind), _prior(model)

    def share(mixture: Mixture) -> float:
        return float(prior.log_density(mixture)) / len(train)

    seconds, before, curve, climb, begun = 0.0, -np.inf, [], [], time.perf_counter()
    for step in range(1, STEPS + 1):
        shares, log_likelihood = responsibilities(train, mixture)
        bound = float(log_likelihood.mean()) + share(mixture)
        mixture = maximise(train, shares, covariance_type=kind, reg_covar=least, prior=prior)
        seconds += time.perf_counter() - begun
        curve.append([step, float(responsibilities(held, mixture)[1].mean()), seconds])
        climb.append([step, float(responsibilities(train, mixture)[1].mean()) + share(mixture), seconds])
        begun = time.perf_counter()
        if bound - before < GAIN:
            break
        before = bound
    model.set_parameters(mixture.weights, mixture.means, mixture.covariances)
    told = "validation bound, exact" if splits.validation is not None else "training bound, exact"
    curves = {"curve": curve, "curve is": told, "climb": climb}
    done = {"seconds": seconds, "epochs": len(curve), "train particles": 1}
    return {**done, "decoder_evaluations": len(train) * len(curve), **curves}


def _prior(model: GMM) -> Prior:
    if model.prior is None:
        return Prior()
    return Prior(model.prior.concentration, torch.diag(model.prior.scale.double().cpu()), model.prior.degrees)


@torch.no_grad()
def _share(model: GMM, data: int) -> float:
    return float(model.log_prior().double()) / data


def _flat(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1).double().cpu()


def agreement(cells: Sequence[Outcome], splits: Splits) -> list[dict[str, Any]]:
    """Return how each cell of a mixture compares with EM's of the same model and seed.

    Components are matched by their posteriors on the test data, so that their order does not matter. A row holds
    ``label``; ``difference``, the largest difference of a posterior probability; ``mean difference``; ``gap``, EM's
    last log-likelihood of the training data (and log prior, if any) less the cell's, nats per datum; ``seconds``, of
    training, until it was within 1e-3 nats of the best of the cells of that seed, or None where it never was.
    """
    by_em = {(each.cell.model, each.cell.seed): each for each in cells if _is_em(each)}
    rows = []
    for each in cells:
        reference = by_em.get((each.cell.model, each.cell.seed))
        if reference is not None and not each.failure and not reference.failure:
            rows.append(_row(each, reference, [other for other in cells if _same(other, each)], splits))
    return rows


def told(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line for each row of `agreement`."""
    lines = []
    for row in rows:
        seconds = row["seconds"]
        reached = f"{seconds:.3g} s to" if seconds is not None else "not"
        lines.append(
            f"{row['label']}: posteriors of components, matched, differ from EM's by {row['mean difference']:.2g} in "
            f"the mean and {row['difference']:.2g} at most; {reached} within {CLOSE:g} nats of the best likelihood."
        )
    return lines


def _is_em(outcome: Outcome) -> bool:
    return outcome.cell.objective == "em" and not outcome.failure


def _same(one: Outcome, other: Outcome) -> bool:
    return (one.cell.model, one.cell.seed) == (other.cell.model, other.cell.seed) and not one.failure


def _row(each: Outcome, reference: Outcome, others: Sequence[Outcome], splits: Splits) -> dict[str, Any]:
    test = splits.test if splits.test is not None else splits.train
    own, theirs = (_posterior(outcome, test.x) for outcome in (each, reference))
    apart = (own[:, matched(own, theirs)] - theirs).abs()
    last = {id(other): other.scores["climb"][-1][1] for other in others if other.scores.get("climb")}
    best = max(last.values())
    climb = each.scores.get("climb", ())
    times = [seconds for _, value, seconds in climb if value >= best - CLOSE]
    return {
        "label": each.cell.label,
        "difference": float(apart.max()),
        "mean difference": float(apart.mean()),
        "gap": last[id(reference)] - last[id(each)] if climb else None,
        "seconds": min(times, default=None),
    }


def _posterior(outcome: Outcome, x: Tensor) -> Tensor:
    model = open_run(outcome.cell.folder, checkpoint="last").model
    return model.posterior(x.to(next(model.parameters()))).double().cpu()


def matched(own: Tensor, theirs: Tensor) -> Tensor:
    """Return the order of `own`'s components, (data, components), in which they are most like `theirs`."""
    alike = theirs.mT @ own
    left, found = [*range(own.shape[1])], torch.zeros(own.shape[1], dtype=torch.int64)
    for theirs_ in theirs.sum(0).argsort(descending=True).tolist():  # the heaviest choose first
        found[theirs_] = left.pop(int(alike[theirs_, left].argmax()))
    return found
