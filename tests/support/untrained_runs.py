"""Runs of models with their initial parameters, for tests of what happens after a training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import pvae

__all__ = ["SMALL", "UNTRAINED", "log_weights_of", "untrained_run"]

UNTRAINED: dict[str, Any] = {"epochs": 0, "step": "eager", "progress": False}
#: The settings of a small built-in model of six numbers.
SMALL: dict[str, Any] = {"data_shape": 6, "latent": 2, "hidden": (5,)}


def untrained_run(model: Any, data: Any, **options: Any) -> pvae.Run:
    """Return the run of a model with its initial parameters.

    Args:
        model: the latent model.
        data: the data.
        options: options of `pvae.fit`.
    """
    torch.manual_seed(0)
    return pvae.fit(model, data, **{**UNTRAINED, **options})


def log_weights_of(run: pvae.Run, x: Tensor) -> pvae.LogWeights:
    """Return the log weights of three particles at each datum, from one seed."""
    torch.manual_seed(5)
    with torch.no_grad(), pvae.models.scope(run.model):
        return pvae.log_weights(run.model, pvae.Batch(x=x), particles=3)
