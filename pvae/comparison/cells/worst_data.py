"""The test data with the lowest log evidence under a model, for the page of a comparison."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.data import Splits
from pvae.data.subset import draw_subset
from pvae.models.latent_codes import without_labels
from pvae.models.posterior_values import reconstruct

__all__ = ["worst_arrays"]

_COUNT = 8


def worst_arrays(
    model: object, splits: Splits, log_evidence: Tensor, limit: int | None, seed: int
) -> dict[str, Tensor]:
    """Return the test data with the lowest log evidence, the lowest first, with reconstructions.

    Args:
        model: the latent model.
        splits: the data of the evaluation.
        log_evidence: the log evidence of each evaluated datum, shape (data,).
        limit: number of test data in the evaluation; None for all.
        seed: the seed with which the evaluation drew the data.

    Returns:
        ``worst`` and ``worst_reconstructions`` (8, ...), ``worst_places`` among the evaluated data (8,), and
        ``worst_positions`` among all test data (8,); empty if there is no test split, or if the model observes only a
        part of a datum.
    """
    if splits.test is None:
        return {}
    batch, subset = draw_subset(splits.test, limit, seed)
    if len(log_evidence) != subset.count:
        return {}
    places = log_evidence.argsort()[:_COUNT].cpu()
    worst = batch.take(places)
    parameter = next(iter(model.parameters()), None) if isinstance(model, torch.nn.Module) else None
    moved = worst if parameter is None else worst.to(parameter.device)
    again = reconstruct(model, without_labels(model, moved)[0])
    if again.numel() != worst.x.numel():  # a picture needs all values of a datum
        return {}
    positions = subset.indices()[places]
    return {"worst": worst.x, "worst_reconstructions": again, "worst_places": places, "worst_positions": positions}
