"""Data, training and evaluation that the rows share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.base import shuffled

import pvae
from published_rows.lines import Cell

__all__ = ["EVERY_SMOKE", "load", "minus_log_evidence", "train"]

#: Settings of the budget "smoke" of every row: digits of 8 x 8 pixels, one epoch, tiny networks.
EVERY_SMOKE = {
    "data": "digits", "images": 100, "test": 40, "validation": 0, "hidden": 8, "latent": 2,
    "epochs": 1, "batch_size": 50, "step": "eager", "particles": 10,
}  # fmt: skip
_OPTIONS = ("epochs", "batch_size", "learning_rate", "optimiser", "schedule", "patience", "step")


def load(settings: Mapping[str, Any], *, binarise: str, **options: Any) -> pvae.Splits:
    """Return the data of a budget: the first training images, and the first or a fixed random part of the test images.

    Args:
        settings: ``data``, ``images`` and ``test`` (None for all), ``validation`` (None for that of the data set), and
            ``first_test`` if the test images are the first ones of the file.
        binarise: as in `pvae.load_data`.
        options: of `pvae.load_data`.
    """
    splits = pvae.load_data(settings["data"], binarise=binarise, validation=settings["validation"], **options)
    test = splits.test if settings.get("first_test") else shuffled(splits.test)
    return replace(
        splits,
        train=splits.train.take(slice(0, settings["images"])),
        test=test.take(slice(0, settings["test"])),
    )


def train(
    model: Any, data: pvae.Splits, objective: str, cell: Cell, folder: Path | None = None, **more: Any
) -> pvae.Run:
    """Train a model of a cell, or continue its training.

    Args:
        model: what `pvae.fit` takes.
        data: the splits.
        objective: the text of the objective.
        cell: the cell.
        folder: the folder of the run; that of the cell by default.
        more: options of `pvae.fit` that are no settings.
    """
    options = {name: cell.settings[name] for name in _OPTIONS if name in cell.settings}
    return pvae.fit(
        model,
        data,
        objective=objective,
        seed=cell.seed,
        out=folder or cell.folder,
        resume=True,
        progress=False,
        **options,
        **more,
    )


def minus_log_evidence(run: pvae.Run, data: pvae.Splits, particles: int) -> dict[str, Any]:
    """Return minus the log evidence of the test images by importance sampling, with its error and bias, in nats."""
    found = pvae.evaluate.log_evidence(run, data, particles=particles)
    bias = None if found.bias is None else -found.bias.value
    return {"value": -found.value, "error": found.error, "bias": bias}
