"""`TrainingRequest`: the arguments of `pvae.fit` in one value, before they are checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pvae.callbacks.base import Callback
from pvae.errors import InputError
from pvae.models.build import ModelSpec
from pvae.programs.binding import Fields
from pvae.train.distributed.training_group import TrainingGroup

__all__ = ["TrainingRequest", "checked_folder"]


@dataclass(frozen=True)
class TrainingRequest:
    """The arguments of `pvae.fit`; its docstring describes them.

    Attributes:
        model: the latent model, or a `ModelSpec`.
        data: `Splits`, or another argument of `pvae.load_data`.
        objective: the objective, its name, or None for the default of the model.
        options: the arguments that are fields of `FitOptions`.
        folder: the folder of the run; None keeps the run in memory.
        resume: whether to continue the run in `folder`.
        callbacks: the callbacks, which are called at the start, after each epoch, at the end and on an error.
        progress: whether to show progress; None chooses by the kind of standard error.
        fields: the batch fields of the programs, or None.
        model_spec: how to build the model again, or None.
        allow_changed: the kinds of changes that a resumed run may have.
        group: the processes of the training.
    """

    model: Any
    data: Any
    objective: Any
    options: Mapping[str, Any]
    folder: Path | None
    resume: bool
    callbacks: tuple[Callback, ...]
    progress: bool | None
    fields: Fields
    model_spec: ModelSpec | None
    allow_changed: tuple[str, ...]
    group: TrainingGroup

    def of_process(self) -> TrainingRequest:
        """Return the request for this process: only the first one writes, shows progress and calls the callbacks."""
        return self if self.group.is_first else replace(self, folder=None, callbacks=(), progress=False)


def checked_folder(out: Any) -> Path | None:
    """Return the folder of the run; raise InputError if it is not a path."""
    if not isinstance(out, str | os.PathLike | None):
        raise InputError(f"out needs the path of a folder, or None to keep the run in memory; got {out!r}.")
    return None if out is None else Path(out)
