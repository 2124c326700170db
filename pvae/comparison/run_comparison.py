"""Run a comparison: plan the cells, train and evaluate them, and write the table and the page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pvae.checks import require_whole
from pvae.comparison.base import Outcome
from pvae.comparison.cells.budget import parse_budget
from pvae.comparison.cells.cell_files import check_folder, read_outcome
from pvae.comparison.cells.common_binarisation import resolve_binarisation
from pvae.comparison.cells.drawings import SEED
from pvae.comparison.cells.evidence_method import EvidenceMethod, parse_evidence, require_evidence
from pvae.comparison.cells.factories import models_by_name, objectives_by_name
from pvae.comparison.cells.grid import check_training, checked_grid, expand_rows
from pvae.comparison.cells.plan import Job, plan_jobs
from pvae.comparison.cells.resolve_options import resolve_fit_options
from pvae.comparison.page.make_page import make_page
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.processes.run_cells import CellRuns, run_cells
from pvae.comparison.processes.worker_plan import WorkerPlan
from pvae.comparison.rows import finished, make_ranked_rows, rankings_of
from pvae.comparison.table.comparison_table import Table
from pvae.comparison.table.mixture_agreement import compare_mixtures, summary_lines
from pvae.comparison.table.short_labels import first_rows
from pvae.comparison.written_results import format_call, settings_by_heading, write_json
from pvae.data import Splits, load_data, steps_of_epoch
from pvae.data.streams.stored_batch import StoredBatch
from pvae.data.subset import Subset
from pvae.errors import InputError
from pvae.locks import sole_writer
from pvae.names import printable
from pvae.report import write_page
from pvae.shown_tables import ShownTable
from pvae.train import fit

__all__ = ["Comparison", "compare", "usual_epochs"]

_USUAL_STEPS, _USUAL_EPOCHS = 1600, 50


@dataclass(frozen=True)
class Comparison:
    """The results of a comparison, and where its files are.

    Attributes:
        table: one row for each model and objective.
        report: path of the page, one HTML file.
        folder: the folder with the page, ``comparison.json``, and a run folder for each cell.
        cells: the outcomes of all cells, failures included.
        mixtures: if EM is one of the objectives, how the posterior and the training time of each cell compare with
            those of EM.
    """

    table: Table
    report: Path
    folder: Path
    cells: tuple[Outcome, ...]
    mixtures: tuple[dict[str, Any], ...] = ()

    def __str__(self) -> str:
        return printable("\n\n".join([str(self.table), *self.summary()]))

    def _repr_html_(self) -> str:
        table: str = self.table._repr_html_()
        return table + ShownTable([], [], lines=self.summary()).to_html()

    def summary(self) -> list[str]:
        """Return the paragraphs below the table: verdict, rankings at equal budgets, mixtures, path of the report."""
        rankings = "\n".join(self.table.describe_rankings())
        parts = [self.table.verdict(), rankings, *summary_lines(self.mixtures), f"Report: {self.report}"]
        return [part for part in parts if part]


def usual_epochs(splits: Splits, batch_size: int) -> int:
    """Return the default number of epochs of a comparison: 50, or as many as give 1600 steps on small data.

    Args:
        splits: the data.
        batch_size: data in a step.
    """
    steps_per_epoch = steps_of_epoch(splits.train, batch_size)
    if not steps_per_epoch:
        raise InputError(
            "The number of training data is not known, so that the number of epochs has no default. Give epochs, the "
            "number of passes over the data."
        )
    return max(_USUAL_EPOCHS, -(-_USUAL_STEPS // steps_per_epoch))


def compare(
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
    workers: int | None = None,
    threads: int | None = None,
    progress: bool = True,
    command: str = "",
    **options: Any,
) -> Comparison:
    """Train every model by every objective from every seed, evaluate all alike, and write a page about the results.

    A cell is one model, one objective and one seed. The cells run in worker processes, as many as there are cores. If
    a cell fails, the table says so, and the other cells are not affected. The same call on the same folder skips the
    cells that are done and continues the others. All cells of one seed have the same initial parameters of a model and
    the same order of the data.

    Args:
        models: for each name what makes a fresh latent model: a text such as ``"vae:prior=vamp"``, a `ModelSpec`, a
            class or a function; or only texts. A text may have options of the training too:
            ``"vae:learning_rate=3e-4"``. A function has no parameter, one for the splits, or parameters that are named
            ``data_shape``, ``classes``, ``condition_shape`` or ``data_size``. A model that cannot be pickled runs in
            this process, and the page says so.
        data: `Splits`, or what `pvae.load_data` takes.
        objectives: for each name what makes an objective (its class, a function, a text); or only texts, such as
            ``"iwae:particles=8"``.
        seeds: the seeds, or their number, counted from 0.
        epochs: passes over the training data in each training; `usual_epochs` by default, unless there is a budget.
        budget: an equal budget for each training: a training time without validation, such as ``"60s"`` or ``"5min"``,
            or a number of decoder evaluations, such as ``"2M-evaluations"``. EM runs until it converges.
        out: the folder; a new temporary one by default.
        particles: draws of z per datum in the evaluation.
        limit: number of test data in the evaluation, a random subset drawn with seed 0, the same for all cells; None
            for all, ``"auto"`` for 1000, and for 100 with annealing.
        evidence: how the log evidence is estimated: ``"is"`` by importance sampling; ``"ais"`` by annealed importance
            sampling, a lower estimate; ``"sandwich"`` from both sides, see `pvae.evaluate.sandwich`. Settings follow
            colons: ``"sandwich:temperatures=200:chains=8:start=guide"``.
        baseline: the objective, the name in the table or ``"model / objective"`` of the first row, with which the
            others are compared.
        grid: for each setting of the models or of the training, its values, such as
            ``{"learning_rate": [1e-3, 3e-4]}``. Each model has a row for each combination, and its name says which.
        workers: number of worker processes; 0 runs all cells in this process.
        threads: number of torch threads in each worker.
        progress: whether to show the progress on standard error.
        command: the command on the page that makes it again; this call by default.
        options: options of `pvae.fit` for every cell; the default of ``validation_particles`` is 25.

    Returns:
        The table, the outcomes of the cells, and the path of the page.

    Raises:
        InputError: if an option cannot be used, if a model cannot be annealed, if the folder holds something else or
            was made with other options, or if every cell failed.

    Example:
        >>> import pvae, torch
        >>> x = torch.eye(4).repeat(10, 1)
        >>> small = {"seeds": 1, "epochs": 1, "particles": 10, "workers": 0, "progress": False}
        >>> result = pvae.compare(["vae:latent=2:hidden=8"], x, ["elbo"], **small)
        >>> [row.objective for row in result.table.rows]
        ['elbo']
        >>> result.report.name
        'index.html'
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
    jobs = plan_jobs(factories, objective_factories, seed_list, folder, training, judging, summary, method)
    require_evidence(method, factories, splits, judging["limit"])
    with sole_writer(folder):
        check_folder(folder, jobs)
        plan = WorkerPlan.choose(len(jobs), workers, threads, options.get("device", "auto"))
        runs = run_cells(jobs, splits, plan, progress)
        cells = _move_first([_outcome(job, runs) for job in jobs], first)
        table = _make_table(cells, judging, _count_test_data(splits), budget or "")
        mixtures = tuple(compare_mixtures(cells, splits))
        report_data = ReportData(
            table,
            cells,
            summary,
            settings=settings_by_heading(jobs, judging | {"evidence": method.text}, summary, plan),
            rerun=command or format_call(jobs, splits.name, seed_list, folder, values_by_setting),
            notes=(*runs.notes, *summary_lines(mixtures)),
            data_notes=splits.notes,
            arrays={outcome.cell.label: outcome.arrays for outcome in finished(cells)},
        )
        return Comparison(table, _write_results(folder, report_data, seed_list), folder, cells, mixtures)


def _splits_of(data: Any) -> Splits:
    """Return data as splits of which the test data are read once, so that all cells are judged on the same values."""
    splits = data if isinstance(data, Splits) else load_data(data)
    _count_test_data(splits)
    test = splits.test
    if not isinstance(test, StoredBatch) or test.varies:
        return splits
    return replace(splits, test=test.resident())


def _count_test_data(splits: Splits) -> int:
    if splits.test is None:
        raise InputError("A comparison evaluates on test data, and these data have no test split; give one.")
    return splits.test.size


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


def _outcome(job: Job, runs: CellRuns) -> Outcome:
    """Return the outcome of a cell; the files of one that was done before are not read a second time."""
    failure = runs.failures.get(job.cell.label)
    if failure:
        return Outcome(job.cell, failure=failure)
    return runs.kept.get(job.cell.label) or read_outcome(job.cell)


def _move_first(outcomes: Sequence[Outcome], first: set[tuple[str, str]]) -> tuple[Outcome, ...]:
    """Return the outcomes, those of certain models and objectives first, otherwise in the same order."""
    return tuple(sorted(outcomes, key=lambda outcome: (outcome.cell.model, outcome.cell.objective) not in first))


def _write_results(folder: Path, data: ReportData, seeds: Sequence[int]) -> Path:
    """Write the page and the JSON file, and return the path of the page; without a finished cell, say why."""
    report = write_page(folder / "index.html", make_page(data))
    write_json(folder / "comparison.json", data, seeds)
    _require_finished_cell(data.outcomes, report)
    return report


def _require_finished_cell(outcomes: Sequence[Outcome], report: Path) -> None:
    if not finished(outcomes):
        raise InputError(f"Every cell failed; the first: {outcomes[0].failure} (all: {report}).")


def _options_of_training(
    splits: Splits,
    options: Mapping[str, Any],
    own: Mapping[str, dict[str, Any]],
    epochs: int | None,
    budget: str | None,
) -> dict[str, dict[str, Any]]:
    """Return the checked options of `pvae.fit` by row: the common ones, the epochs or the limit of a budget, its own.

    Rows that differ in the size of their batches have the same number of epochs, unless they choose it themselves.
    """
    length = {} if budget is None else parse_budget(budget).fit_options(splits.train.known_size)
    for name, training in own.items():
        for option in training:
            if option in length:
                raise InputError(f"budget decides {option} of every row; leave budget out, or {option} of {name}.")
    if epochs is not None:
        length["epochs"] = require_whole(epochs, "epochs")
    by_row = {name: {**options, **length, **training} for name, training in own.items()}
    for training in by_row.values():
        check_training(training)
    if length or all("epochs" in training for training in own.values()):
        return by_row
    usual = usual_epochs(splits, max(training["batch_size"] for training in by_row.values()))
    return {name: {**training, "epochs": own[name].get("epochs", usual)} for name, training in by_row.items()}


def _make_table(cells: Sequence[Outcome], judging: Mapping[str, int | None], test_size: int, budget: str) -> Table:
    subset = Subset(min(judging["limit"] or test_size, test_size), test_size, SEED)
    particles = judging["particles"] or 0
    rows = make_ranked_rows(cells, particles)
    return Table(rows, subset.count, particles, str(subset), rankings_of(cells), budget)
