"""The plan of a comparison: one job for each model, objective and seed, with the folder of each cell."""

from __future__ import annotations

import hashlib
import pickle
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pvae import __version__
from pvae.comparison.base import Cell
from pvae.comparison.cells.evidence_method import IMPORTANCE, EvidenceMethod
from pvae.comparison.cells.factories import describe_factory
from pvae.comparison.cells.model_code import code_of_objective
from pvae.errors import InputError
from pvae.json_values import json_value
from pvae.objectives import Objective, adapt, describe

__all__ = ["BIASED", "MODEL_RECIPE", "OBJECTIVE_SETTINGS", "Job", "can_be_pickled", "plan_jobs"]

# Keys of a cell's config.
MODEL_RECIPE = "model is"
OBJECTIVE_SETTINGS = "objective is"
BIASED = "biased"


@dataclass(frozen=True)
class Job:
    """A cell with everything that is needed to train and evaluate it.

    It can be sent to a worker process if its factories can be pickled.

    Attributes:
        cell: the cell.
        model: a `ModelSpec`, or a factory of latent models.
        objective: a factory of objectives.
        options: the options of `pvae.fit`.
        particles: draws of z per datum in the evaluation.
        limit: number of test data in the evaluation; None for all.
        evidence: the estimator of the log evidence.
    """

    cell: Cell
    model: Any
    objective: Callable[[], Any]
    options: Mapping[str, Any]
    particles: int
    limit: int | None
    evidence: EvidenceMethod = IMPORTANCE


def plan_jobs(
    models: Mapping[str, Any],
    objectives: Mapping[str, Callable[[], Any]],
    seeds: Sequence[int],
    folder: Path,
    options: Mapping[str, Mapping[str, Any]],
    judging: Mapping[str, Any],
    data: Mapping[str, Any],
    evidence: EvidenceMethod = IMPORTANCE,
    code: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Job]:
    """Return the jobs of all cells, in the order of models, objectives and seeds.

    Args:
        models: model factories by name.
        objectives: objective factories by name.
        seeds: seeds of the trainings.
        folder: folder of the comparison.
        options: by the name of a model, all options of `pvae.fit` except seed, objective and folder, including
            defaults.
        judging: ``particles`` and ``limit`` of the evaluation.
        data: `Splits.summary()`.
        evidence: the estimator of the log evidence.
        code: by the name of a model, the checksums of the user's code, see `code_of_models`.

    Raises:
        InputError: if an objective does not train the guide.
    """
    adapted = {name: adapt(factory) for name, factory in objectives.items()}
    _require_evidences(adapted)
    descriptions = {
        name: {**_describe_objective(objective), **code_of_objective(objectives[name], objective)}
        for name, objective in adapted.items()
    }
    model_folders, objective_folders = _folder_names(models), _folder_names(objectives)
    method = {"evidence": evidence.text} if evidence.anneals else {}
    shared = {"pvae": __version__, "judging": {**judging, **method}, "data": json_value(data, _describe_object)}
    jobs = []
    for model, objective, seed in product(models, objectives, seeds):
        config = {
            "model": model,
            "objective": objective,
            "seed": seed,
            MODEL_RECIPE: describe_factory(models[model]),
            **(code or {}).get(model, {}),
            **descriptions[objective],
            "fit": json_value(options[model], _describe_object),
            **shared,
        }
        place = folder / "cells" / model_folders[model] / objective_folders[objective] / f"seed-{seed}"
        cell = Cell(model, objective, seed, place, config)
        jobs.append(Job(cell, models[model], objectives[objective], options[model], **judging, evidence=evidence))
    return jobs


def _describe_objective(objective: Objective) -> dict[str, str]:
    description = {OBJECTIVE_SETTINGS: describe(objective)}
    if objective.biased:
        description[BIASED] = objective.biased
    return description


def _require_evidences(objectives: Mapping[str, Objective]) -> None:
    for name, objective in objectives.items():
        if "phi" in objective.untrained:
            raise InputError(
                "A comparison needs a trained guide, because it estimates the evidence with the guide's weights; "
                f"{name!r} does not train the guide. Leave it out, or use 'ali', which trains one."
            )
        if objective.no_density:
            raise InputError(
                f"A comparison estimates the evidence, but {name!r} has none: {objective.no_density}. Leave it out, or "
                "use 'aae' or 'ali'."
            )


def _folder_names(names: Iterable[str]) -> dict[str, str]:
    """Return a different folder name for each name, valid on every file system."""
    folder_names: dict[str, str] = {}
    for name in names:
        folder_name = re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-.")[:60]
        # Some file systems do not distinguish upper and lower case.
        used = {other.lower() for other in folder_names.values()}
        if not folder_name or folder_name.lower() in used:
            folder_name = f"{folder_name}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".strip("-")
        folder_names[name] = folder_name
    return folder_names


def _describe_object(value: Any) -> str:
    """Return a text for an object that is the same in every process: the name of a function or class, or the repr."""
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def can_be_pickled(job: Any) -> bool:
    """Return whether a new process can rebuild a job or data: it can be pickled, and its names imported there."""
    try:
        packed = pickle.dumps(job)
    except Exception:  # a user's own __reduce__ may raise any error
        return False
    # The functions of a notebook belong to the module __main__, which other processes cannot import.
    return b"__main__" not in packed or hasattr(sys.modules["__main__"], "__file__")
