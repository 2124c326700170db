"""Run a comparison: plan the cells, train and evaluate them, and write the table and the page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pvae.comparison.base import Outcome
from pvae.comparison.cells.cell_files import check_folder, read_outcome
from pvae.comparison.cells.drawings import SEED
from pvae.comparison.cells.plan import Job
from pvae.comparison.page.make_page import make_page
from pvae.comparison.page.report_data import ReportData
from pvae.comparison.planned_comparison import PlannedComparison, plan_comparison
from pvae.comparison.processes.choose_executor import choose_executor
from pvae.comparison.processes.executor import CellRuns
from pvae.comparison.processes.run_cells import run_cells
from pvae.comparison.rows import finished, make_ranked_rows, rankings_of
from pvae.comparison.table.comparison_table import Table
from pvae.comparison.table.mixture_agreement import compare_mixtures, summary_lines
from pvae.comparison.written_results import format_call, settings_by_heading, write_json
from pvae.data.subset import Subset
from pvae.errors import InputError
from pvae.locks import sole_writer
from pvae.names import printable
from pvae.report import write_page
from pvae.shown_tables import ShownTable

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """The results of a comparison, and where its files are.

    Attributes:
        table: one row for each model and objective.
        report: path of the page, one HTML file.
        folder: the folder with the page, ``comparison.json``, and a run folder for each cell.
        cells: the outcomes of all cells, failures included.
        mixtures: if EM is one of the objectives, a comparison of the posterior and the training time of each cell with
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
    executor: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    cpus_per_cell: int | None = None,
    gpus_per_cell: float | None = None,
    progress: bool = True,
    command: str = "",
    **options: Any,
) -> Comparison:
    """Train every model by every objective from every seed, evaluate all on the same data, and write a page of results.

    A cell is one model, one objective and one seed. The cells run in worker processes, as many as there are cores, or
    in a cluster. If a cell fails, the table reports it, and the other cells are not affected. The same call on the same
    folder skips the cells that are done and continues the others. All cells of one seed have the same initial
    parameters of a model and the same order of the data.

    Args:
        models: for each name a recipe for a new latent model: a text such as ``"vae:prior=vamp"``, a `ModelSpec`, a
            class or a function; or only texts. A text may have options of the training too:
            ``"vae:learning_rate=3e-4"``. A function has no parameter, one for the splits, or parameters that are named
            ``data_shape``, ``classes``, ``condition_shape`` or ``data_size``. A model that cannot be pickled runs in
            this process, and the page reports it.
        data: `Splits`, or what `pvae.load_data` accepts.
        objectives: for each name a recipe for an objective (its class, a function, a text); or only texts, such as
            ``"iwae:particles=8"``.
        seeds: the seeds, or their number, counted from 0.
        epochs: passes over the training data in each training; `usual_epochs` by default, unless there is a budget.
        budget: an equal budget for each training: a training time without validation, such as ``"60s"`` or ``"5min"``,
            or a number of decoder evaluations, such as ``"2M-evaluations"``. EM runs until it converges.
        out: the folder; a new temporary one by default.
        particles: draws of z per datum in the evaluation.
        limit: number of test data in the evaluation, a random subset drawn with seed 0, the same for all cells; None
            for all, ``"auto"`` for 1000, and for 100 with annealing.
        evidence: the estimator of the log evidence: ``"is"``, importance sampling; ``"ais"`` by annealed importance
            sampling, a lower estimate; ``"sandwich"`` from both sides, see `pvae.evaluate.sandwich`. Settings follow
            colons: ``"sandwich:temperatures=200:chains=8:start=guide"``.
        baseline: the first row, with which the others are compared: its objective, its name in the table, or ``"model /
            objective"``.
        grid: for each setting of the models or of the training, its values, such as
            ``{"learning_rate": [1e-3, 3e-4]}``. Each model has a row for each combination, which is part of its name.
        executor: how the cells run: ``"local"``, in worker processes on this machine; ``"ray"``, as tasks on a Ray
            cluster, which needs ``pip install pvae[ray]``; ``"slurm"``, jobs that run elsewhere (see
            `plan_comparison`): then no cell runs here, and cells that are not done are reported.
        workers: number of worker processes of this machine; 0 runs all cells in this process.
        threads: number of torch threads in each worker; by default the cores are shared, and with Ray it is
            ``cpus_per_cell``.
        cpus_per_cell: number of CPUs of each cell in a cluster; 1 by default.
        gpus_per_cell: number of GPUs of each cell in a cluster; 0 by default. With Ray, 0.5 lets two cells share one.
        progress: whether to show the progress on standard error.
        command: the command on the page that makes it again; this call by default.
        options: options of `pvae.fit` for every cell; the default of ``validation_particles`` is 25.

    Returns:
        The table, the outcomes of the cells, and the path of the page.

    Raises:
        InputError: if an option cannot be used, if a model cannot be annealed, if the folder holds something else or
            was made with other options, or if every cell failed.
        OSError: if the disk is full; finished cells and checkpoints are kept.

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
    judging: dict[str, Any] = {"particles": particles, "limit": limit, "evidence": evidence}
    rows: dict[str, Any] = {"budget": budget, "baseline": baseline, "grid": grid}
    planned = plan_comparison(models, data, objectives, seeds, epochs, out, **judging, **rows, **options)
    chosen = choose_executor(
        executor,
        len(planned.jobs),
        workers=workers,
        threads=threads,
        cpus_per_cell=cpus_per_cell,
        gpus_per_cell=gpus_per_cell,
        device=options.get("device", "auto"),
    )
    with sole_writer(planned.folder):
        damages = check_folder(planned.folder, planned.jobs)
        runs = run_cells(planned.jobs, planned.splits, chosen, progress, damages)
        return _summarise(planned, runs, command, str(chosen))


def _summarise(planned: PlannedComparison, runs: CellRuns, command: str, how: str) -> Comparison:
    """Write the table and the page from the files of the cells, and return the results."""
    cells = _move_first([_outcome(job, runs) for job in planned.jobs], planned.first)
    test = planned.splits.test
    table = _make_table(cells, planned.judging, 0 if test is None else test.size, planned.budget)
    mixtures = tuple(compare_mixtures(cells, planned.splits))
    judging = {**planned.judging, "evidence": planned.method.text}
    report_data = ReportData(
        table,
        cells,
        planned.summary,
        settings=settings_by_heading(planned.jobs, judging, planned.summary, how),
        rerun=command or format_call(planned.jobs, planned.splits.name, planned.seeds, planned.folder, planned.grid),
        notes=(*runs.notes, *summary_lines(mixtures)),
        data_notes=planned.splits.notes,
        arrays={outcome.cell.label: outcome.arrays for outcome in finished(cells)},
    )
    report = _write_results(planned.folder, report_data, planned.seeds)
    return Comparison(table, report, planned.folder, cells, mixtures)


def _outcome(job: Job, runs: CellRuns) -> Outcome:
    """Return the outcome of a cell; the files of a cell that was done before are not read again."""
    failure = runs.failures.get(job.cell.label)
    if failure:
        return Outcome(job.cell, failure=failure)
    return runs.kept.get(job.cell.label) or read_outcome(job.cell)


def _move_first(outcomes: Sequence[Outcome], first: Set[tuple[str, str]]) -> tuple[Outcome, ...]:
    """Return the outcomes with those of certain models and objectives first, otherwise in the same order."""
    return tuple(sorted(outcomes, key=lambda outcome: (outcome.cell.model, outcome.cell.objective) not in first))


def _write_results(folder: Path, data: ReportData, seeds: Sequence[int]) -> Path:
    """Write the page and the JSON file, and return the path of the page; raise if no cell has finished."""
    report = write_page(folder / "index.html", make_page(data))
    write_json(folder / "comparison.json", data, seeds)
    _require_finished_cell(data.outcomes, report)
    return report


def _require_finished_cell(outcomes: Sequence[Outcome], report: Path) -> None:
    if not finished(outcomes):
        raise InputError(f"Every cell failed; the first: {outcomes[0].failure} (all: {report}).")


def _make_table(cells: Sequence[Outcome], judging: Mapping[str, int | None], test_size: int, budget: str) -> Table:
    subset = Subset(min(judging["limit"] or test_size, test_size), test_size, SEED)
    particles = judging["particles"] or 0
    rows = make_ranked_rows(cells, particles)
    return Table(rows, subset.count, particles, str(subset), rankings_of(cells), budget)
