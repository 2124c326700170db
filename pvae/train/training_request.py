"""`TrainingRequest`: the arguments of `pvae.fit` in one value, before they are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvae.models.build import ModelSpec
from pvae.programs.binding import Fields

__all__ = ["TrainingRequest"]


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
        callbacks: the functions to call after each epoch.
        progress: whether to show progress; None chooses by the kind of standard error.
        fields: the batch fields of the programs, or None.
        model_spec: how to build the model again, or None.
        allow_changed: the kinds of changes that a resumed run may have.
    """

    model: Any
    data: Any
    objective: Any
    options: Mapping[str, Any]
    folder: Path | None
    resume: bool
    callbacks: tuple[Callable[..., Any], ...]
    progress: bool | None
    fields: Fields
    model_spec: ModelSpec | None
    allow_changed: tuple[str, ...]
