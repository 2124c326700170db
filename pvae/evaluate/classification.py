"""How often the classifier of a latent model is right."""

from __future__ import annotations

from typing import Any

import torch

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.base import Estimate
from pvae.evaluate.evaluation_context import prepared
from pvae.programs.classifier import classifier_of, most_probable

__all__ = ["accuracy"]


def accuracy(model: Any, data: Any, *, chunk: int = 1000, **where: Any) -> Estimate:
    """Return the part of labelled data whose most probable label under q(y given x) is their label ``y``.

    The classifier is the latent model's method ``classify(x)``. Data whose label is hidden, -1, are left out. The error
    is that of independent data; for the difference of two models on the same data use `difference`, which pairs them.

    Args:
        model: a run, or a latent model with ``classify``.
        data: `Splits` (the test split), or a `Batch` with ``y``.
        chunk: data at once.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields`` of `prepared`.

    Raises:
        InputError: if there is no classifier, or no label.
    """
    with prepared(model, data, **where) as setting:
        classify = classifier_of(setting.model, said="accuracy")
        batch = setting.batch
        if "y" not in batch or not bool((batch["y"] >= 0).any()):
            raise InputError("accuracy needs data with labels, a field y of whole numbers from 0 on; these have none.")
        labelled = batch.take(batch["y"] >= 0)
        chunk = require_whole(chunk, "chunk")
        parts = [labelled.take(slice(start, start + chunk)) for start in range(0, labelled.size, chunk)]
        right = [most_probable(classify(each["x"])) == each["y"] for each in parts]
        return Estimate.mean_of(torch.cat(right).double())
