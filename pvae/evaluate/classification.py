"""`accuracy`: the share of labels that the classifier of a latent model predicts correctly."""

from __future__ import annotations

from typing import Any

import torch

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.base import Estimate
from pvae.evaluate.evaluated_data import ModelOrRun
from pvae.evaluate.evaluation_context import evaluation_context
from pvae.programs.classifier import classifier_of, most_probable, require_known_labels

__all__ = ["accuracy"]


def accuracy(model: ModelOrRun, data: Any = None, *, chunk: int = 1000, **where: Any) -> Estimate:
    """Return the share of labelled data for which the most probable label under q(y given x) is the label ``y``.

    The classifier is the latent model's method ``classify(x)``. Data with a hidden label, -1, are left out. The
    standard error assumes independent data. For the difference of two models on the same data use `difference`, which
    is paired.

    Args:
        model: a run, or a latent model with ``classify``.
        data: `Splits` (the test split), or a `Batch` with ``y``.
        chunk: the largest number of data at once.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``; see `pvae.evaluate`.

    Raises:
        InputError: if the model has no classifier, the data have no label, or a label is not a class of the model.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> data = pvae.Batch(x=torch.eye(4), y=torch.arange(4))
        >>> model = pvae.SemiSupervisedVAE(4, classes=4, latent=2, hidden=8)
        >>> share = pvae.evaluate.accuracy(model, data)
        >>> 0 <= share.value <= 1, share.count
        (True, 4)
    """
    with evaluation_context(model, data, **where) as context:
        classify = classifier_of(context.model, caller="accuracy")
        batch = context.batch
        if "y" not in batch or not bool((batch["y"] >= 0).any()):
            raise InputError(
                "accuracy needs data with labels, a field y of whole numbers from 0 upwards; these data have none. Add "
                "the "
                "field y, or evaluate on labelled data."
            )
        require_known_labels(context.model, batch)
        labelled = batch.take(batch["y"] >= 0)
        chunk = require_whole(chunk, "chunk")
        chunks = [labelled.take(slice(start, start + chunk)) for start in range(0, labelled.size, chunk)]
        correct = [most_probable(classify(data["x"])) == data["y"] for data in chunks]
        return Estimate.mean_of(torch.cat(correct).double())
