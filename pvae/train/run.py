"""A run: the folder of one training, and what comes of it."""

from __future__ import annotations

import importlib.machinery
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.models.build import ModelSpec
from pvae.names import unknown
from pvae.programs.binding import bind
from pvae.programs.parameter_scope import scope
from pvae.randomness import preserved_randomness
from pvae.train import checkpoint
from pvae.train.history import read_history
from pvae.train.parameters import root_module
from pvae.train.training_state import load_parameters, model_tensors, signature

__all__ = ["Run", "open_run", "read_config"]

_CHECKPOINTS = ("best", "last")


@dataclass
class Run:
    """A training, done or opened.

    Attributes:
        model: the latent model, with the parameters of `checkpoint`.
        history: one record per epoch, numbers in nats per datum: ``epoch``, ``step``, ``loss`` and the
            objective's named terms, ``validation_bound`` and ``validation_error`` where there is a validation
            split, ``learning_rate``, ``seconds``; and one per rollback, with ``event``.
        folder: of the run, or None.
        config: every resolved option, versions, data and model; as ``config.toml``.
        seconds: time spent in training.
        checkpoint: ``"best"`` by the validation bound, or ``"last"`` (both are one where
            no validation bound ranks them).
        step: how the steps ran in the end, ``"graph"`` or ``"eager"``; empty for a run that was opened.
    """

    model: Any
    history: list[dict[str, Any]]
    folder: Path | None
    config: dict[str, Any]
    seconds: float
    checkpoint: str = "best"
    step: str = ""
    _held: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def epoch(self) -> int:
        """The number of epochs done."""
        return max((each["epoch"] for each in self.history if "epoch" in each), default=0)

    def load(self, which: str) -> Run:
        """Put the parameters of ``"best"`` or ``"last"`` into the model; return this run.

        Raises:
            InputError: for another name, or a checkpoint that cannot be read.
        """
        if which not in _CHECKPOINTS:
            raise unknown("checkpoint", which, _CHECKPOINTS)
        tensors = self._held[which] if which in self._held else _snapshot(self._require_folder(), which).parameters
        with scope(self.model):
            load_parameters(self.model, _root(self.model, self.config), tensors)
        self.checkpoint = which
        return self

    def _require_folder(self) -> Path:
        if self.folder is None:
            raise InputError("This run has no folder, and its other parameters were not kept: give out='...'.")
        return self.folder


def read_config(folder: Path) -> dict[str, Any]:
    """Return the ``config.toml`` of a run.

    Raises:
        InputError: if the folder is no run, or the file is damaged.
    """
    path = folder / "config.toml"
    if not path.is_file():
        raise InputError(f"{folder} is no run folder: it has no config.toml.")
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged: {error}.") from error
    missing = [part for part in ("objective", "model", "data", "training") if part not in config]
    if missing:
        raise InputError(f"{path} is damaged: it has no {missing[0]}.")
    return config


def _snapshot(folder: Path, which: str) -> checkpoint.Snapshot:
    """The best checkpoint is the last one until there is a best."""
    found = which == "best" and any((folder / name).exists() for name in ("best", "best.previous"))
    return checkpoint.read_newest(folder, "best" if found else "last")


def _example(config: Mapping[str, Any], size: int = 2) -> Batch:
    """Data of the recorded shapes, all zero: enough to bind the programs and to create lazy parameters."""
    fields = config["data"]["fields"]
    made = {
        name: torch.zeros(size, *each["shape"], dtype=getattr(torch, each["dtype"])) for name, each in fields.items()
    }
    return Batch(**made)


def _root(model: Any, config: Mapping[str, Any]) -> nn.Module:
    return root_module(model, bind(model, _example(config), config.get("fields")))


def _home(name: str) -> Path | None:
    """Where the code of a model that is not built in lies."""
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place).expanduser().resolve()
    found = importlib.machinery.PathFinder.find_spec(place.partition(".")[0]) if place else None
    return Path(found.origin).resolve() if found is not None and found.origin is not None else None


def _rebuilt(folder: Path, config: Mapping[str, Any]) -> Any:
    recipe = config["model"]
    if "name" not in recipe:
        raise InputError(
            f"{folder} does not say how to build its model ({recipe['class']}): give open_run(..., model=...)."
        )
    name = str(recipe["name"])
    home = _home(name)
    if home is not None and home.is_relative_to(folder.resolve()):
        raise InputError(f"{home} lies inside the run folder, and code of a run folder is never run: move it out.")
    settings = {
        key: tuple(each) if isinstance(each, list) else None if each == "none" else each
        for key, each in recipe.get("settings", {}).items()
    }
    data = config["data"]
    shape = SimpleNamespace(
        data_shape=tuple(data["data_shape"]),
        classes=data.get("classes"),
        condition_shape=tuple(data["fields"]["c"]["shape"]) if "c" in data["fields"] else None,
        data_size=data["sizes"]["train"],
    )
    with preserved_randomness():
        return ModelSpec(name, settings).build(shape)


def _create_lazy_parameters(model: Any, config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Run both programs once where parameters are missing: autoguides make theirs at the first call."""
    root = _root(model, config)
    if signature(model_tensors(model, root)).keys() >= {each for each in wanted if not each.startswith("param_store/")}:
        return
    batch = _example(config)
    programs = bind(model, batch, config.get("fields")).bound_to(batch)
    with preserved_randomness(), torch.no_grad():
        programs.trace_guide()
        programs.trace_model()


def open_run(folder: str | Path, model: Any = None, checkpoint: str = "best") -> Run:
    """Open the folder of a run, with its model rebuilt and its parameters loaded on the CPU.

    Nothing in the folder is unpickled, and no code in it is run.

    Args:
        folder: of the run.
        model: the latent model to load into, where the run does not say how to build it.
        checkpoint: ``"best"`` by the validation bound, or ``"last"``.

    Raises:
        InputError: if the folder is no run, a checkpoint is damaged, or the model is another one.
    """
    folder = Path(folder)
    if checkpoint not in _CHECKPOINTS:
        raise unknown("checkpoint", checkpoint, _CHECKPOINTS)
    config = read_config(folder)
    snapshot = _snapshot(folder, checkpoint)
    model = _rebuilt(folder, config) if model is None else model
    with scope(model):
        _create_lazy_parameters(model, config, snapshot.parameters)
        root = _root(model, config)
        if config["training"]["precision"] == "float64":
            root.double()
        load_parameters(model, root, snapshot.parameters)
    history = read_history(folder / "metrics.jsonl")
    return Run(model, history, folder, config, float(snapshot.state["seconds"]), checkpoint)
