"""Run one cell of a comparison in this process, while other processes run other cells."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pvae.comparison.base import Outcome
from pvae.comparison.cells.cell_failure import write_failure
from pvae.comparison.cells.cell_files import check_folder, read_finished, read_outcome, write_config
from pvae.comparison.cells.cell_lock import is_running
from pvae.comparison.cells.plan import Job
from pvae.comparison.cells.train_cell import train_and_evaluate
from pvae.comparison.processes.failure_reasons import reason_of
from pvae.comparison.processes.progress_display import ProgressDisplay
from pvae.comparison.processes.termination import sigterm_as_exit
from pvae.comparison.processes.worker_pool import Event, EventKind
from pvae.data import Splits
from pvae.errors import InputError
from pvae.locks import is_written_now

__all__ = ["run_single_cell"]


def run_single_cell(job: Job, splits: Splits, folder: Path, threads: int | None, *, show_progress: bool) -> Outcome:
    """Train and evaluate one cell; a cell that is done is not run again.

    Args:
        job: the cell with its factories and options.
        splits: the data.
        folder: the folder of the comparison.
        threads: number of torch threads; None does not change it.
        show_progress: whether to write to standard error.

    Returns:
        The outcome of the cell.

    Raises:
        InputError: if another process runs the cell or the whole comparison, or the folder holds the cell with other
            options.
    """
    if is_written_now(folder):
        raise InputError(
            f"A cell of {folder} needs a folder in which no other comparison runs, but a process runs all its cells "
            "now. Wait until it ends."
        )
    check_folder(folder, [job])
    if is_running(job.cell):  # an error of this attempt is not a failure of the cell
        raise InputError(
            f"{job.cell.label} can run in one process at a time, and a process runs it now. Wait until it ends."
        )
    done = read_finished(job.cell)
    epochs = int(job.options["epochs"])
    with ProgressDisplay([job.cell], 0, [epochs], shown=show_progress) as display:
        if done is not None and not done.failure:
            display.write_line(f"{job.cell.label} was done before and is kept.")
            return done
        if done is not None:
            display.write_line(f"Evaluated again from its run: {done.failure}.")
        write_config(job.cell)
        with sigterm_as_exit(), _threads(threads):
            _run(job, splits, display)
    return read_outcome(job.cell)


def _run(job: Job, splits: Splits, display: ProgressDisplay) -> None:
    """Train and evaluate the cell, and show its events; write the reason of a failure and raise the error again."""

    def show(kind: EventKind, content: Any = None) -> None:
        display.show_event(Event(kind, 0, content))

    show(EventKind.STARTED)
    try:
        summary = train_and_evaluate(job, splits, lambda content: show(EventKind.PROGRESS, content))
    except Exception as error:  # a user's program may raise any error
        reason = reason_of(error)
        write_failure(job.cell, reason)
        show(EventKind.FAILED, reason)
        raise
    show(EventKind.DONE, summary)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Set the number of torch threads for a block; None does not change it."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
