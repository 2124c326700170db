"""Run the cells of a comparison that are not done, and keep those that are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pvae.comparison.cells.cell_files import read_finished
from pvae.comparison.cells.plan import Job
from pvae.comparison.number_formats import format_count
from pvae.comparison.processes.executor import CellRuns, Executor, WaitingCells
from pvae.comparison.processes.progress_display import ProgressDisplay
from pvae.comparison.processes.shared_splits import remove_abandoned_data
from pvae.comparison.processes.termination import sigterm_as_exit
from pvae.data import Splits

__all__ = ["run_cells"]


def run_cells(
    jobs: Sequence[Job], splits: Splits, executor: Executor, show_progress: bool, damages: Mapping[str, str]
) -> CellRuns:
    """Train and evaluate the cells that are not done.

    Args:
        jobs: all cells of the comparison.
        splits: the data.
        executor: runs the cells.
        show_progress: whether to write to standard error.
        damages: the reasons why some cells cannot run, by their labels.
    """
    remove_abandoned_data()  # even if this call starts no workers
    usable = [job for job in jobs if job.cell.label not in damages]
    outcomes = [outcome for outcome in (read_finished(job.cell) for job in usable) if outcome is not None]
    kept = {outcome.cell.label: outcome for outcome in outcomes if not outcome.failure}
    waiting = [job for job in usable if job.cell.label not in kept]
    done = len(kept)
    epochs = [int(job.options["epochs"]) for job in waiting]
    with ProgressDisplay([job.cell for job in waiting], done, epochs, shown=show_progress) as display:
        if done:
            display.write_line(f"{done} of {len(jobs)} cells were done before and are kept.")
        _announce_annealing(waiting, splits, display)
        cells = WaitingCells(waiting, splits, display)
        cells.runs.kept |= kept
        cells.runs.failures |= damages
        for damage in damages.values():
            cells.note(f"Left out: {damage}.")
        for damage in [outcome.failure for outcome in outcomes if outcome.failure]:
            cells.note(f"Evaluated again from its run: {damage}.")
        try:
            with sigterm_as_exit():
                executor.run(cells)
        except (KeyboardInterrupt, SystemExit):
            display.write_line("Stopped. Finished cells and checkpoints are kept; the same call continues from them.")
            raise
    return cells.runs


def _announce_annealing(jobs: Sequence[Job], splits: Splits, display: ProgressDisplay) -> None:
    """Show the expected cost of the annealing of the cells that wait, if there is one."""
    if not jobs or not jobs[0].evidence.anneals or splits.test is None:
        return
    method, limit = jobs[0].evidence, jobs[0].limit
    data = min(limit or splits.test.size, splits.test.size)
    display.write_line(
        f"Log evidence by {method.text}: about {format_count(method.cost(data))} decoder evaluations for each of "
        f"{len(jobs)} cells, for {data} test data."
    )
