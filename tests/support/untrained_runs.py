"""Runs of models with their initial parameters, for tests of what happens after a training."""

from __future__ import annotations

from typing import Any

import torch

import pvae

__all__ = ["SMALL", "UNTRAINED", "untrained_run"]

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
