"""The first part of `compare`: check the arguments, read the data, and plan the cells."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pvae.checks import require_whole
from pvae.comparison.base import Cell, Outcome
from pvae.comparison.cells.budget import parse_budget
from pvae.comparison.cells.common_binarisation import resolve_binarisation
from pvae.comparison.cells.evidence_method import EvidenceMethod, parse_evidence, require_evidence
from pvae.comparison.cells.factories import models_by_name, objectives_by_name
from pvae.comparison.cells.grid import check_training, checked_grid, expand_rows
from pvae.comparison.cells.model_code import code_of_models
from pvae.comparison.cells.plan import Job, plan_jobs
from pvae.comparison.cells.resolve_options import resolve_fit_options
from pvae.comparison.processes.single_cell import run_single_cell
from pvae.comparison.table.short_labels import first_rows
from pvae.data import Splits, load_data, steps_of_epoch
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError
from pvae.train import fit

__all__ = ["PlannedComparison", "plan_comparison", "usual_epochs"]

_USUAL_STEPS, _USUAL_EPOCHS = 1600, 50


@dataclass(frozen=True)
class PlannedComparison:
    """The cells of a comparison, with everything that is needed to run each of them in a separate process.

    Attributes:
        jobs: a job for each cell.
        splits: the data.
        folder: the folder of the comparison.
        seeds: the seeds of the trainings.
        judging: ``particles`` and ``limit`` of the evaluation.
        method: the estimator of the log evidence.
        summary: the description of the data in the settings of the page.
        budget: the budget of each training, or "".
        first: the models and objectives of the rows that come first.
        grid: the values of each setting of the grid.
    """

    jobs: tuple[Job, ...] = field(repr=False)
    splits: Splits = field(repr=False)
    folder: Path
    seeds: tuple[int, ...]
    judging: Mapping[str, int | None]
    method: EvidenceMethod
    summary: Mapping[str, Any] = field(repr=False)
    budget: str = ""
    first: Set[tuple[str, str]] = frozenset()
    grid: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells in the order of their numbers."""
        return tuple(job.cell for job in self.jobs)

    def run_cell(self, number: int, *, threads: int | None = 1, progress: bool = True) -> Outcome:
        """Train and evaluate one cell in this process, and write its files; nothing else in the folder changes.

        Other processes may run other cells of the same comparison at the same time, also on other machines that have
        the folder. The numbers are those of `pvae.compare` with the same number of threads, bit by bit on the same
        kind of machine. A cell that is done is not run again, and a stopped cell is continued. If the cell fails, the
        reason is written next to its folder, and `pvae.compare` with ``executor="slurm"`` shows it.

        Args:
            number: the number of the cell, counted from 1.
            threads: number of torch threads; None does not change it.
            progress: whether to show the progress on standard error.

        Returns:
            The outcome of the cell, read from its files.

        Raises:
            InputError: if there is no cell of that number, if another process runs it or the whole comparison, or if
                the folder holds the cell with other options.
        """
        advice = f"The plan has {len(self.jobs)} cells, which are counted from 1."
        number = require_whole(number, "cell", most=len(self.jobs), advice=advice)
        threads = None if threads is None else require_whole(threads, "threads")
        return run_single_cell(self.jobs[number - 1], self.splits, self.folder, threads, show_progress=progress)


def plan_comparison(
    models: Mapping[str, Any] | Sequence[str] | str,
    data: Any,
    objectives: Mapping[str, Any] | Iterable[str] | str,
    seeds: Iterable[int] | int = range(3),
    epochs: int | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    budget: str | None = None,
    particles: int = 1000,
    limit: int | Literal["auto"] | None = "auto",
    evidence: str = "is",
    baseline: str | None = None,
    grid: Mapping[str, Iterable[Any]] | None = None,
    **options: Any,
) -> PlannedComparison:
    """Check the arguments of a comparison and plan its cells, without running one.

    It is the first part of `pvae.compare`. With it, a script runs the cells as jobs of a cluster: each job makes the
    same plan and calls `PlannedComparison.run_cell` with its own number.

    Args:
        models: see `pvae.compare`, also for all arguments below.
        data: the data.
        objectives: the objectives by name.
        seeds: the seeds, or their number.
        epochs: passes over the training data.
        out: the folder, which all jobs need to see; a new temporary one by default.
        budget: an equal budget for each training.
        particles: draws of z per datum in the evaluation.
        limit: number of test data in the evaluation.
        evidence: the estimator of the log evidence.
        baseline: the objective of the first row.
        grid: the values of settings; each model has a row for each combination.
        options: options of `pvae.fit` for every cell.

    Returns:
        The plan.

    Raises:
        InputError: if an option cannot be used, or if a model cannot be annealed.
    """
    values_by_setting = checked_grid(grid, {**options, "epochs": epochs})
    factories, own_options = expand_rows(models_by_name(models), values_by_setting)
    objective_factories = objectives_by_name(objectives)
    method = parse_evidence(evidence)
    seed_list, judging = _resolve_seeds(seeds), _checked_judging(particles, limit, method)
    splits = resolve_binarisation(_splits_of(data), factories)
    training = _options_of_training(splits, resolve_fit_options(fit, options), own_options, epochs, budget)
    first = first_rows(baseline, factories, objective_factories)
    folder = Path(tempfile.mkdtemp(prefix="pvae-compare-") if out is None else out)
    summary = splits.summary()
    code = code_of_models(factories, splits)
    jobs = plan_jobs(factories, objective_factories, seed_list, folder, training, judging, summary, method, code)
    require_evidence(method, factories, splits, judging["limit"])
    return PlannedComparison(
        tuple(jobs),
        splits,
        folder,
        tuple(seed_list),
        judging,
        method,
        summary,
        budget or "",
        first,
        values_by_setting,
    )


def usual_epochs(splits: Splits, batch_size: int) -> int:
    """Return the default number of epochs of a comparison: 50, or more on small data, for 1600 steps.

    Args:
        splits: the data.
        batch_size: data in a step.
    """
    steps_per_epoch = steps_of_epoch(splits.train, batch_size)
    if not steps_per_epoch:
        raise InputError(
            "The number of training data is not known, so the number of epochs has no default. Give epochs, the "
            "number of passes over the data."
        )
    return max(_USUAL_EPOCHS, -(-_USUAL_STEPS // steps_per_epoch))


def _splits_of(data: Any) -> Splits:
    """Return data as splits with test data that are read once, so all cells are evaluated on the same values."""
    splits = data if isinstance(data, Splits) else load_data(data)
    _require_test_data(splits)
    test = splits.test
    if not isinstance(test, StoredBatch) or test.varies:
        return splits
    return replace(splits, test=test.resident())


def _require_test_data(splits: Splits) -> None:
    if splits.test is None:
        raise InputError("A comparison evaluates on test data, but these data have no test split. Give one.")


def _checked_judging(particles: int, limit: int | str | None, method: EvidenceMethod) -> dict[str, int | None]:
    chosen = method.default_limit if limit == "auto" else limit
    return {
        "particles": require_whole(particles, "particles"),
        "limit": None if chosen is None else require_whole(chosen, "limit", advice="None takes all, 'auto' chooses."),
    }


def _resolve_seeds(seeds: Iterable[int] | int) -> list[int]:
    if not isinstance(seeds, Iterable):
        return list(range(require_whole(seeds, "seeds", advice="It is the number of seeds, or a list of seeds.")))
    seed_list = [require_whole(seed, "each of seeds", least=0) for seed in seeds]
    if not seed_list or len(set(seed_list)) < len(seed_list):
        raise InputError(f"seeds needs one seed or several different ones; got {seed_list}.")
    return seed_list


def _options_of_training(
    splits: Splits,
    options: Mapping[str, Any],
    own: Mapping[str, dict[str, Any]],
    epochs: int | None,
    budget: str | None,
) -> dict[str, dict[str, Any]]:
    """Return the checked options of `pvae.fit` by row: the common ones, the epochs or the budget, and the row's own.

    Rows with different batch sizes have the same number of epochs, unless a row sets it.
    """
    length = {} if budget is None else parse_budget(budget).fit_options(splits.train.known_size)
    for name, training in own.items():
        for option in training:
            if option in length:
                raise InputError(f"budget sets {option} of every row. Leave budget out, or {option} of {name}.")
    if epochs is not None:
        length["epochs"] = require_whole(epochs, "epochs")
    by_row = {name: {**options, **length, **training} for name, training in own.items()}
    for training in by_row.values():
        check_training(training)
    if length or all("epochs" in training for training in own.values()):
        return by_row
    usual = usual_epochs(splits, max(training["batch_size"] for training in by_row.values()))
    return {name: {**training, "epochs": own[name].get("epochs", usual)} for name, training in by_row.items()}
