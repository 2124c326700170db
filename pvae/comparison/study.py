"""The comparison itself: plan the cells, run them, judge, tabulate, report."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pvae import __version__
from pvae.comparison.base import Outcome
from pvae.comparison.em_cells import agreement, told
from pvae.comparison.pages import Study, make_page
from pvae.comparison.plan import (
    Job,
    check_folder,
    named_models,
    named_objectives,
    plan,
    resolved_options,
)
from pvae.comparison.rows import ranked
from pvae.comparison.running import Room, cores, run_cells
from pvae.comparison.table import Table
from pvae.comparison.work import drawings_of, outcome_of, settled
from pvae.data import Splits, load_data
from pvae.errors import InputError
from pvae.names import unknown
from pvae.report import write_page
from pvae.train import fit

__all__ = ["Comparison", "compare", "usual_epochs"]

_STEPS = 1600


@dataclass(frozen=True)
class Comparison:
    """What a comparison found, and where it is kept.

    Attributes:
        table: a row per model and objective.
        report: the page, one HTML file.
        folder: everything: the page, ``comparison.json``, and a run folder per cell.
        cells: what came of each cell, failures too.
        mixtures: where EM was among the objectives, how each cell's posterior and time compare with EM's.
    """

    table: Table
    report: Path
    folder: Path
    cells: tuple[Outcome, ...]
    mixtures: tuple[dict[str, Any], ...] = ()

    def __str__(self) -> str:
        said = [self.table, self.table.verdict(), *told(self.mixtures), f"Report: {self.report}"]
        return "\n\n".join(map(str, said))


def usual_epochs(splits: Splits, batch_size: int) -> int:
    """Return the epochs of a comparison that names none: 50, or as many as make 1600 steps on small data."""
    steps = -(-splits.train.size // batch_size)
    return max(50, -(-_STEPS // steps))


def compare(
    models: Mapping[str, Any],
    data: Any,
    objectives: Mapping[str, Any] | Iterable[str] | str,
    seeds: Iterable[int] | int = range(3),
    epochs: int | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    particles: int = 1000,
    limit: int | None = 1000,
    baseline: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    progress: bool = True,
    command: str = "",
    **options: Any,
) -> Comparison:
    """Train every model by every objective from every seed, judge all alike, and write one page about it.

    Cells (model x objective x seed) run in worker processes within the cores at hand; one that fails is
    reported as failed, and the others finish. The same call on the same folder skips cells that are done and
    goes on with those that are not. Cells of one seed share their first parameters and their order of data.

    Args:
        models: for each name what makes a fresh latent model: a class, a function without arguments or with one
            (the splits), or a `ModelSpec`. One that cannot be pickled runs in this process, which is said.
        data: `Splits`, or what `pvae.load_data` takes.
        objectives: for each name what makes an objective (its class, a function, a text); or only texts, such as
            ``"iwae:particles=8"``.
        seeds: the seeds, or how many from 0.
        epochs: of each training; `usual_epochs` where not given.
        out: the folder; a new temporary one where not given.
        particles: draws of z per datum in the judgement.
        limit: data of the test split that are judged, the first ones; None for all.
        baseline: the objective (or ``"model / objective"``) that stands first, and that others are compared with.
        workers: processes at a time; 0 runs all cells in this process.
        threads: threads of each worker.
        progress: show progress on standard error.
        command: what the page names as the way to make it again; the call, where not given.
        options: of `pvae.fit`, for every cell; ``validation_particles`` is 25 where not given.

    Raises:
        InputError: for options that cannot be used, a folder that holds something else or was made with other
            options, or where every cell failed.
    """
    made, named, numbers = named_models(models), named_objectives(objectives), _seeds(seeds)
    splits = settled(data if isinstance(data, Splits) else load_data(data), made)
    if splits.test is None:
        raise InputError("A comparison judges on test data, and these data have no test split; give one.")
    resolved = resolved_options(fit, options)
    resolved["epochs"] = usual_epochs(splits, resolved["batch_size"]) if epochs is None else epochs
    judging = {"particles": particles, "limit": limit}
    _check_counts(epochs=resolved["epochs"], **judging)
    _check_baseline(baseline, made, named)
    folder = Path(tempfile.mkdtemp(prefix="pvae-compare-") if out is None else out)
    jobs = plan(made, named, numbers, folder, resolved, judging, splits.summary())
    check_folder(folder, jobs)
    room = Room.of(jobs, workers, threads, resolved.get("device", "auto"))
    failures, notes = run_cells(jobs, splits, room, progress)
    cells = _first(tuple(_outcome(job, failures) for job in jobs), baseline)
    table = Table(ranked(cells, particles), min(limit or splits.test.size, splits.test.size), particles)
    mixtures = tuple(agreement(cells, splits))
    rerun = command or _call(made, splits, named, numbers, resolved["epochs"], folder)
    study = Study(
        table, cells, splits.summary(), _settings(jobs, resolved, judging, splits, room), rerun,
        (*notes, *told(mixtures)), splits.notes,
        {each.cell.label: drawings_of(each.cell) for each in cells if not each.failure},
    )  # fmt: skip
    report = write_page(folder / "index.html", make_page(study))
    _write_json(folder / "comparison.json", study, numbers)
    if all(each.failure for each in cells):
        raise InputError(f"Every cell failed; the first: {cells[0].failure} (all: {report}).")
    return Comparison(table, report, folder, cells, mixtures)


def _check_counts(**counts: int | None) -> None:
    for name, each in counts.items():
        if each is not None and each < 1:
            raise InputError(f"{name} is at least 1; got {each}.")


def _check_baseline(baseline: str | None, models: Iterable[str], objectives: Iterable[str]) -> None:
    known = [*objectives, *(f"{model} / {objective}" for model in models for objective in objectives)]
    if baseline is not None and baseline not in known:
        raise unknown("baseline", baseline, known)


def _seeds(seeds: Iterable[int] | int) -> list[int]:
    found = list(range(seeds)) if isinstance(seeds, int) else [int(each) for each in seeds]
    if not found or len(set(found)) < len(found) or min(found) < 0:
        raise InputError(f"seeds are different whole numbers from 0 on, or how many; got {seeds!r}.")
    return found


def _outcome(job: Job, failures: Mapping[str, str]) -> Outcome:
    failure = failures.get(job.cell.label)
    return Outcome(job.cell, failure=failure) if failure else outcome_of(job.cell)


def _first(cells: tuple[Outcome, ...], baseline: str | None) -> tuple[Outcome, ...]:
    """Return the outcomes with those of the baseline in front."""
    if baseline is None:
        return cells
    names = [(each.cell.objective, f"{each.cell.model} / {each.cell.objective}") for each in cells]
    front = [each for each, known in zip(cells, names, strict=True) if baseline in known]
    return (*front, *(each for each in cells if each not in front))


def _settings(
    jobs: Sequence[Job], options: Mapping[str, Any], judging: Mapping[str, Any], splits: Splits, room: Room
) -> dict[str, Mapping[str, Any]]:
    recipes = {job.cell.model: job.cell.config["model is"] for job in jobs}
    labels = {job.cell.objective: job.cell.config["objective is"] for job in jobs}
    software = {"pvae": __version__, "torch": torch.__version__, "python": platform.python_version()}
    machine = {"machine": platform.machine(), "cells ran": str(room), "cores": cores()}
    return {
        "Models": recipes,
        "Objectives": labels,
        "Training": options,
        "Judgement": judging,
        "Data": splits.summary(),
        "Software": {**software, **machine},
    }


def _call(
    models: Mapping[str, Any],
    splits: Splits,
    objectives: Mapping[str, Any],
    seeds: Sequence[int],
    epochs: int,
    folder: Path,
) -> str:
    return (
        f"pvae.compare(models,  # {', '.join(models)}\n    data,  # {splits.name}\n"
        f"    objectives,  # {', '.join(objectives)}\n    seeds={list(seeds)}, epochs={epochs}, out={str(folder)!r})"
    )


def _write_json(path: Path, study: Study, seeds: Sequence[int]) -> None:
    cells = [
        {"model": each.cell.model, "objective": each.cell.objective, "seed": each.cell.seed,
         "folder": str(each.cell.folder.relative_to(path.parent)), "failure": each.failure or None}
        for each in study.outcomes
    ]  # fmt: skip
    content = {
        "pvae": __version__,
        "data set": study.data,
        "seeds": list(seeds),
        **study.table.to_json(),
        "cells": cells,
    }
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(content, indent=1, default=str), encoding="utf-8")
    os.replace(temporary, path)
