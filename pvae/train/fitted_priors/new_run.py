"""The run of a model with a fitted prior, and its folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pvae.models.fitted_prior import PriorRecipe
from pvae.train import checkpoint
from pvae.train.checkpoint import Snapshot
from pvae.train.encoding import encode
from pvae.train.history import History
from pvae.train.progress_state import ProgressState
from pvae.train.recorded_tensors import tensors_of
from pvae.train.run import Run
from pvae.train.run_folder import write_config
from pvae.train.run_record import config_hash
from pvae.train.training_state import shapes_and_dtypes

__all__ = ["new_run"]


def new_run(run: Run, model: Any, recipe: PriorRecipe, fitted: Mapping[str, Any], folder: Path | None) -> Run:
    """Return the run of a model with a fitted prior, and write its folder, which holds both checkpoints.

    Args:
        run: the run of the model before.
        model: the model with its fitted prior.
        recipe: how the prior is built.
        fitted: the record of the fit, as values of TOML.
        folder: the folder of the new run, which is locked and unused; None keeps it in memory.
    """
    config = copy.deepcopy(run.config)
    config.pop("former", None)
    config["prior"] = {**recipe.record(), "fitted": dict(fitted)}
    tensors = tensors_of(model, config)
    if folder is not None:
        _write(folder, run, config, tensors)
    held = dict.fromkeys(("best", "last"), tensors)
    return Run(model, copy.deepcopy(list(run.history)), folder, config, run.seconds, "best", run.step, held)


def _write(folder: Path, run: Run, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write the folder of a run that no training continues: its state has no optimiser."""
    write_config(folder, config, is_fresh=True)
    history = History(folder / "metrics.jsonl")
    for record in run.history:
        history.add(record)
    progress = ProgressState(
        epoch=run.epoch,
        step=int(max((record.get("step", 0) for record in run.history), default=0)),
        seconds=run.seconds,
        finished="a prior was fitted to the codes",
    )
    state = {
        **progress.record(),
        **history.mark(),
        "data": config["data"]["checksum"],
        "config": config_hash(config),
        "signature": shapes_and_dtypes(tensors),
        "optimiser": {"groups": [], "values": {}},
        "schedule": encode({}),
    }
    for name in ("best", "last"):
        checkpoint.write(folder, name, Snapshot(tensors, {}, state))
