"""Run the cells of a comparison that are not done, in worker processes or in this process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pvae.comparison.base import Outcome
from pvae.comparison.cells.cell_files import read_finished, write_config
from pvae.comparison.cells.plan import Job, can_be_pickled
from pvae.comparison.cells.train_cell import train_and_evaluate
from pvae.comparison.number_formats import format_count
from pvae.comparison.processes.progress_display import ProgressDisplay
from pvae.comparison.processes.shared_splits import remove_abandoned_data, shared_folder, write_shared_splits
from pvae.comparison.processes.worker_plan import WorkerPlan
from pvae.comparison.processes.worker_pool import Event, EventKind, StartError, run_in_process, run_in_workers
from pvae.data import Splits
from pvae.data.streams.stored_batch import StoredBatch

__all__ = ["CellRuns", "run_cells"]


@dataclass
class CellRuns:
    """The outcomes of cells that were done before, the failures of cells that ran, and notes on them.

    Attributes:
        kept: the outcome of each cell that was done before, by the label of the cell.
        failures: the reason of each failure, by the label of the cell.
        notes: lines for the page, on cells that did not run in a worker process.
    """

    kept: dict[str, Outcome] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run_cells(jobs: Sequence[Job], splits: Splits, plan: WorkerPlan, show_progress: bool) -> CellRuns:
    """Train and evaluate the cells that are not done.

    Args:
        jobs: all cells of the comparison.
        splits: the data.
        plan: number of processes and threads.
        show_progress: whether to write to standard error.
    """
    remove_abandoned_data()  # also if this call starts no workers
    outcomes = [outcome for outcome in (read_finished(job.cell) for job in jobs) if outcome is not None]
    kept = {outcome.cell.label: outcome for outcome in outcomes if not outcome.failure}
    waiting = [job for job in jobs if job.cell.label not in kept]
    done = len(kept)
    epochs = [int(job.options["epochs"]) for job in waiting]
    with ProgressDisplay([job.cell for job in waiting], done, epochs, shown=show_progress) as display:
        if done:
            display.write_line(f"{done} of {len(jobs)} cells were done before and are kept.")
        _announce_annealing(waiting, splits, display)
        runner = _CellRunner(waiting, splits, plan, display)
        runner.runs.kept |= kept
        for damage in [outcome.failure for outcome in outcomes if outcome.failure]:
            runner.note(f"Evaluated again from its run: {damage}.")
        try:
            with _sigterm_as_exit():
                runner.run()
        except (KeyboardInterrupt, SystemExit):
            display.write_line("Stopped. Finished cells and checkpoints are kept; the same call continues from them.")
            raise
    return runner.runs


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


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that the workers are stopped too.

    Python allows this in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_exit(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, raise_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class _CellRunner:
    """Runs jobs, and collects failures and notes."""

    def __init__(self, jobs: Sequence[Job], splits: Splits, plan: WorkerPlan, display: ProgressDisplay) -> None:
        self._jobs, self._splits, self._plan, self._display = jobs, splits, plan, display
        self.runs = CellRuns()

    def run(self) -> None:
        """Run in workers; in this process, run jobs that cannot be pickled, and all jobs if no worker starts."""
        reason = self._reason_for_one_process() if self._plan.workers and self._jobs else ""
        uses_workers = self._plan.workers and not reason
        for_workers = [index for index, job in enumerate(self._jobs) if uses_workers and can_be_pickled(job)]
        for_process = [index for index in range(len(self._jobs)) if index not in set(for_workers)]
        if for_workers:
            self._display.write_line(f"{len(for_workers)} cells {self._plan}.")
        if reason:
            self.note(f"Ran in one process, because {reason}.")
        elif for_process and self._plan.workers:
            self.note(f"Ran in one process, because their factories cannot be pickled: {self._names(for_process)}.")
        try:
            self._run_in_workers(for_workers)
        except StartError as error:
            self.note(f"Ran in one process: {error}. (A script calls compare under if __name__ == '__main__'.)")
            for_process += [for_workers[index] for index in error.unfinished]
        run_in_process(
            [self._jobs[index] for index in for_process],
            train_and_evaluate,
            lambda: self._splits,
            indices=for_process,
            report=self._handle_event,
        )

    def _reason_for_one_process(self) -> str:
        """Return why the data cannot be used by other processes; "" if they can."""
        stored = [part for part in self._splits.parts.values() if isinstance(part, StoredBatch)]
        if any(part.has_workers for part in stored):
            return "the loader of the data has workers of its own"
        return "" if all(map(can_be_pickled, stored)) else "the data set cannot be pickled"

    def _run_in_workers(self, indices: Sequence[int]) -> None:
        if not indices:
            return
        with shared_folder() as folder:
            run_in_workers(
                [self._jobs[index] for index in indices],
                train_and_evaluate,
                write_shared_splits(self._splits, folder, self._plan.threads),
                workers=self._plan.workers,
                report=lambda event: self._handle_event(Event(event.kind, indices[event.job], event.content)),
            )

    def _handle_event(self, event: Event) -> None:
        cell = self._jobs[event.job].cell
        if event.kind is EventKind.FAILED:
            self.runs.failures[cell.label] = str(event.content)
        elif event.kind is EventKind.STARTED:
            write_config(cell)
        self._display.show_event(event)

    def note(self, line: str) -> None:
        """Keep a line for the page, and show it."""
        self.runs.notes.append(line)
        self._display.write_line(line)

    def _names(self, indices: Sequence[int]) -> str:
        cells = [self._jobs[index].cell for index in indices]
        return ", ".join(dict.fromkeys(f"{cell.model} under {cell.objective}" for cell in cells))
