"""Cells in worker processes of this machine, or in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pvae.comparison.cells.plan import can_be_pickled
from pvae.comparison.cells.train_cell import train_and_evaluate
from pvae.comparison.processes.executor import Executor, WaitingCells
from pvae.comparison.processes.shared_splits import shared_folder, write_shared_splits
from pvae.comparison.processes.worker_plan import WorkerPlan
from pvae.comparison.processes.worker_pool import Event, StartError, run_in_process, run_in_workers
from pvae.data import Splits
from pvae.data.streams.stored_batch import StoredBatch

__all__ = ["LocalExecutor", "reason_for_one_process"]


@dataclass(frozen=True)
class LocalExecutor(Executor):
    """Runs cells in workers; in this process, cells that cannot be pickled, and all cells if no worker starts.

    Attributes:
        plan: the number of workers and of their threads.
    """

    plan: WorkerPlan

    def __str__(self) -> str:
        return str(self.plan)

    def run(self, cells: WaitingCells) -> None:
        """Run all cells that wait."""
        jobs = cells.jobs
        reason = reason_for_one_process(cells.splits) if self.plan.workers and jobs else ""
        uses_workers = self.plan.workers and not reason
        for_workers = [index for index, job in enumerate(jobs) if uses_workers and can_be_pickled(job)]
        for_process = [index for index in range(len(jobs)) if index not in set(for_workers)]
        if for_workers:
            cells.display.write_line(f"{len(for_workers)} cells {self.plan}.")
        if reason:
            cells.note(f"Ran in one process, because {reason}.")
        elif for_process and self.plan.workers:
            names = cells.describe(for_process)
            cells.note(f"Ran in one process, because their factories cannot be pickled: {names}.")
        try:
            self._run_in_workers(cells, for_workers)
        except StartError as error:
            cells.note(f"Ran in one process: {error}. (A script must call compare under if __name__ == '__main__'.)")
            for_process += [for_workers[index] for index in error.unfinished]
        run_in_process(
            [jobs[index] for index in for_process],
            train_and_evaluate,
            lambda: cells.splits,
            indices=for_process,
            report=cells.handle_event,
        )

    def _run_in_workers(self, cells: WaitingCells, indices: Sequence[int]) -> None:
        if not indices:
            return
        with shared_folder() as folder:
            run_in_workers(
                [cells.jobs[index] for index in indices],
                train_and_evaluate,
                write_shared_splits(cells.splits, folder, self.plan.threads),
                workers=self.plan.workers,
                report=lambda event: cells.handle_event(Event(event.kind, indices[event.job], event.content)),
            )


def reason_for_one_process(splits: Splits) -> str:
    """Return the reason why the data cannot be used by other processes; "" if they can."""
    stored = [part for part in splits.parts.values() if isinstance(part, StoredBatch)]
    if any(part.has_workers for part in stored):
        return "the loader of the data has its own workers"
    return "" if all(map(can_be_pickled, stored)) else "the data set cannot be pickled"
