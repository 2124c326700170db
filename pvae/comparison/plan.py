"""Which cells a comparison has, where each lies, and whether one is done, half done, or of another comparison."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pyro.infer import ELBO

from pvae import __version__
from pvae.comparison.base import Cell
from pvae.errors import InputError
from pvae.models import ModelSpec
from pvae.names import unknown
from pvae.objectives import Objective, adapt, describe, make_objective

__all__ = [
    "Job",
    "can_travel",
    "check_folder",
    "is_done",
    "named_models",
    "named_objectives",
    "plan",
    "record",
    "resolved_options",
]

# What each cell sets itself.
_OWN = {"objective", "seed", "out", "resume", "progress", "callbacks", "threads", "model_spec"}
# Every epoch of every cell pays for the validation bound; 100 particles, as fit takes, cost more than the training.
_CHEAPER = {"validation_particles": 25}


@dataclass(frozen=True)
class Job:
    """A cell with what trains and judges it; travels to a worker where its factories can be pickled.

    Attributes:
        cell: which one.
        model: a `ModelSpec`, or a factory of latent models.
        objective: a factory of objectives.
        options: those of `pvae.fit`.
        particles: draws of z per datum in the judgement.
        limit: number of data that are judged; None for all.
    """

    cell: Cell
    model: Any
    objective: Callable[[], Any]
    options: Mapping[str, Any]
    particles: int
    limit: int | None


def named_models(models: Mapping[str, Any]) -> dict[str, Any]:
    """Return the models by name.

    Raises:
        InputError: if there is none, or one is an instance: its parameters would be trained again in every cell.
    """
    if not isinstance(models, Mapping) or not models:
        raise InputError(f"models is a mapping from names to factories, such as {{'vae': make_vae}}; got {models!r}.")
    for name, model in models.items():
        if not isinstance(model, ModelSpec) and not callable(model):
            raise InputError(f"Model {name!r} is {type(model).__name__}: give a class, a function or a ModelSpec.")
        if hasattr(model, "model") and not isinstance(model, type):
            raise InputError(f"Model {name!r} is an instance, and each cell needs a fresh one: give what makes it.")
    return {str(name): model for name, model in models.items()}


def named_objectives(objectives: Mapping[str, Any] | Iterable[str] | str) -> dict[str, Callable[[], Any]]:
    """Return factories of objectives by name; texts such as ``"iwae:particles=8"`` are their own names.

    Raises:
        InputError: if there is none, a text is not known, or one is an instance.
    """
    if isinstance(objectives, str):
        objectives = [objectives]
    if not isinstance(objectives, Mapping):
        objectives = {str(text): text for text in objectives}
    if not objectives:
        raise InputError("objectives is a mapping from names to factories, or texts such as 'elbo'; got none.")
    return {str(name): _objective(str(name), value) for name, value in objectives.items()}


def _objective(name: str, value: Any) -> Callable[[], Any]:
    if isinstance(value, str):
        return make_objective(value)
    if isinstance(value, ELBO) or not callable(value):
        raise InputError(
            f"Objective {name!r} is {type(value).__name__}, and each cell needs a fresh one: "
            "give its class, a function that makes it, or a text such as 'iwae:particles=8'."
        )
    factory: Callable[[], Any] = value
    return factory


def plan(
    models: Mapping[str, Any],
    objectives: Mapping[str, Callable[[], Any]],
    seeds: Sequence[int],
    folder: Path,
    options: Mapping[str, Any],
    judging: Mapping[str, Any],
    data: Mapping[str, Any],
) -> list[Job]:
    """Return the jobs of all cells, in the order of models, objectives and seeds.

    Args:
        options: all of `pvae.fit` but seed, objective and folder, defaults filled in.
        judging: ``particles`` and ``limit``.
        data: `Splits.summary()`.
    """
    places = {name: _places(names) for name, names in (("models", models), ("objectives", objectives))}
    common = {"pvae": __version__, "fit": _plain(options), "judging": dict(judging), "data": _plain(data)}
    made_of = {name: adapt(factory) for name, factory in objectives.items()}
    labels = {name: describe(each) for name, each in made_of.items()}
    _require_guides(made_of)
    marks = {name: {"biased": each.biased} if each.biased else {} for name, each in made_of.items()}
    jobs = []
    for model, made in models.items():
        for objective, factory in objectives.items():
            for seed in seeds:
                home = folder / "cells" / places["models"][model] / places["objectives"][objective] / f"seed-{seed}"
                names = {"model": model, "objective": objective, "seed": seed}
                described = {"model is": _recipe(made), "objective is": labels[objective], **marks[objective]}
                config = {**names, **described, **common}
                cell = Cell(model, objective, seed, home, config)
                jobs.append(Job(cell, made, factory, options, judging["particles"], judging["limit"]))
    return jobs


def _require_guides(objectives: Mapping[str, Objective]) -> None:
    for name, each in objectives.items():
        if "phi" in each.untrained:
            raise InputError(
                f"A comparison judges by the evidence that a guide's weights give, and {name!r} trains no guide: leave "
                "it out, or use 'ali', which trains one."
            )


def _places(names: Iterable[str]) -> dict[str, str]:
    """Return a folder's name for each name, fit for every file system, each its own."""
    found: dict[str, str] = {}
    for name in names:
        place = re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-.")[:60]
        if not place or place.lower() in {each.lower() for each in found.values()}:
            place = f"{place}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".strip("-")
        found[name] = place
    return found


def _recipe(model: Any) -> str:
    """Return what a factory is, as far as can be told without reading its code."""
    if isinstance(model, ModelSpec):
        settings = ", ".join(f"{name}={value!r}" for name, value in sorted(model.settings.items()))
        return f"{model.name}({settings})"
    if isinstance(model, partial):
        given = [*map(repr, model.args), *(f"{name}={value!r}" for name, value in model.keywords.items())]
        return f"{_recipe(model.func)} with {', '.join(given)}"
    return f"{getattr(model, '__module__', '?')}.{getattr(model, '__qualname__', type(model).__qualname__)}"


def _plain(value: Any) -> Any:
    """Return a value as JSON keeps it, so that one from a file compares equal to one made here."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def check_folder(folder: Path, jobs: Sequence[Job]) -> None:
    """Refuse a folder that holds something else than these cells, before anything is written.

    Raises:
        InputError: if it is no comparison's, or a cell in it was made with other options; says which.
    """
    strangers = folder.is_dir() and any(folder.iterdir()) and not (folder / "cells").is_dir()
    if strangers or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} exists and holds no comparison; give another folder for out. Nothing was changed.")
    for job in jobs:
        found = _recorded(job.cell)
        if found is None and job.cell.folder.exists():
            raise InputError(f"{job.cell.folder} is a run of something else; give another folder for out.")
        different = [] if found is None else _differences(found, json.loads(json.dumps(job.cell.config)))
        if different:
            raise InputError(
                f"{folder} holds {job.cell.label} made with other options ({'; '.join(different[:4])}). "
                "Give another folder for out, or the same options; nothing was changed."
            )


def _recorded(cell: Cell) -> dict[str, Any] | None:
    try:
        found = json.loads(cell.record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{cell.record} cannot be read ({error}); remove it with its run, or give another out."
        ) from None
    return found if isinstance(found, dict) else {}


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [line for key in keys for line in _differences(old.get(key), new.get(key), f"{name} {key}".strip())]
    return [] if old == new else [f"{name} was {old!r}, now {new!r}"]


def record(cell: Cell) -> None:
    """Write down what is asked of a cell, before it starts."""
    cell.record.parent.mkdir(parents=True, exist_ok=True)
    temporary = cell.record.with_suffix(".partial")
    temporary.write_text(json.dumps(cell.config, indent=1), encoding="utf-8")
    os.replace(temporary, cell.record)


def is_done(cell: Cell) -> bool:
    """Whether a cell is trained and judged."""
    return cell.evaluation.is_file() and cell.evaluation.with_suffix(".safetensors").is_file()


def can_travel(job: Job) -> bool:
    """Whether a fresh process could rebuild a job: it can be pickled, and what it names can be imported there."""
    try:
        packed = pickle.dumps(job)
    except Exception:  # anything: a user's own __reduce__ may raise what it likes
        return False
    # A notebook's own functions belong to a __main__ that no other process can import.
    return b"__main__" not in packed or hasattr(sys.modules["__main__"], "__file__")


def resolved_options(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of `pvae.fit` that a comparison may set, as given or by default.

    The defaults are those of `fit`, but for 25 particles in the validation bound.

    Raises:
        InputError: for an option that `fit` does not have (the nearest is named), or that a cell sets itself.
    """
    parameters = inspect.signature(function).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    known = {name: default for name, default in defaults.items() if name not in _OWN}
    for name in given:
        if name not in known:
            raise unknown("option of fit", name, known)
    return {**known, **_CHEAPER, **given}
