"""Compare the Gaussian mixtures that other objectives find with the mixture that EM finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pvae.comparison.base import Outcome
from pvae.comparison.cells.training_summary import read_log_likelihoods
from pvae.data import Splits
from pvae.train import open_run

__all__ = ["compare_mixtures", "match_components", "summary_lines"]

_EM = "em"  # name of the objective
# A training counts as converged if its log-likelihood is within this distance of the best one, in nats per datum.
_CONVERGED = 1e-3


def compare_mixtures(outcomes: Sequence[Outcome], splits: Splits) -> list[dict[str, Any]]:
    """Return the difference between the mixture of each cell and that of EM for the same model and seed.

    The order of components is arbitrary, so components are matched by their posteriors on the test data.

    Args:
        outcomes: the outcomes of all cells.
        splits: the data.

    Returns:
        For each finished cell with a finished cell of EM: ``label``; ``difference``, the largest difference of a
        posterior probability; ``mean_difference``; ``gap``, the last log-likelihood of EM on the training data (plus
        log-prior, if any) minus that of the cell, in nats per datum; ``training_seconds``, until the log-likelihood
        was within 1e-3 nats of the best one of that seed, or None if it never was. ``mean difference`` and ``seconds``
        are the same values under the keys of earlier versions.
    """
    finished = [outcome for outcome in outcomes if not outcome.failure]
    by_em = {_model_and_seed(outcome): outcome for outcome in finished if outcome.cell.objective == _EM}
    comparisons = []
    for outcome in finished:
        em = by_em.get(_model_and_seed(outcome))
        if em is not None:
            same_seed = [other for other in finished if _model_and_seed(other) == _model_and_seed(outcome)]
            comparisons.append(_compare_with_em(outcome, em, same_seed, splits))
    return comparisons


def summary_lines(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each entry of `compare_mixtures`."""
    lines = []
    for comparison in comparisons:
        seconds = comparison["training_seconds"]
        close = f"within {_CONVERGED:g} nats of the best log-likelihood"
        progress = f"it did not come {close}" if seconds is None else f"it came {close} after {seconds:.3g} s"
        lines.append(
            f"Cell {comparison['label']}: the posteriors of matched components differ from those of EM by "
            f"{comparison['mean_difference']:.2g} on average and by {comparison['difference']:.2g} at most; {progress}."
        )
    return lines


def _model_and_seed(outcome: Outcome) -> tuple[str, int]:
    return outcome.cell.model, outcome.cell.seed


def _compare_with_em(outcome: Outcome, em: Outcome, same_seed: Sequence[Outcome], splits: Splits) -> dict[str, Any]:
    test = splits.test if splits.test is not None else splits.train
    posterior, em_posterior = _posterior(outcome, test.x), _posterior(em, test.x)
    differences = (posterior[:, match_components(posterior, em_posterior)] - em_posterior).abs()
    curve = read_log_likelihoods(outcome.scores)
    last = [last for other in same_seed if (last := _last_log_likelihood(other)) is not None]
    converged = [point.seconds for point in curve if point.value >= max(last) - _CONVERGED]
    comparison = {
        "label": outcome.cell.label,
        "difference": float(differences.max()),
        "mean_difference": float(differences.mean()),
        "gap": read_log_likelihoods(em.scores)[-1].value - curve[-1].value if curve else None,
        "training_seconds": min(converged, default=None),
    }
    return {
        **comparison,
        "mean difference": comparison["mean_difference"],
        "seconds": comparison["training_seconds"],
    }


def _last_log_likelihood(outcome: Outcome) -> float | None:
    curve = read_log_likelihoods(outcome.scores)
    return curve[-1].value if curve else None


def _posterior(outcome: Outcome, x: Tensor) -> Tensor:
    """Return the posterior probabilities of the components, shape (data, components)."""
    model = open_run(outcome.cell.folder, checkpoint="last").model
    return model.posterior(x.to(next(model.parameters()))).double().cpu()


def match_components(posterior: Tensor, reference: Tensor) -> Tensor:
    """Return the order of components in which one posterior is most like another.

    Each component of the reference, in order of decreasing weight, gets the most similar remaining component.

    Args:
        posterior: probabilities of components, shape (data, components).
        reference: the same by another model.

    Returns:
        For each component of the reference, the index of a component of `posterior`, shape (components,).
    """
    similarity = reference.mT @ posterior
    unmatched = list(range(posterior.shape[1]))
    order = torch.zeros(posterior.shape[1], dtype=torch.int64)
    for component in reference.sum(0).argsort(descending=True).tolist():
        order[component] = unmatched.pop(int(similarity[component, unmatched].argmax()))
    return order
