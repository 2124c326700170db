"""The code of the processes of Ray: one cell for each task, and the messages to the process of the caller.

A worker process of Ray imports pvae and unpacks the data for its first cell, and keeps both for later cells.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load

from pvae.comparison.base import Cell
from pvae.comparison.cells.cell_lock import require_own_lock
from pvae.comparison.cells.plan import Job
from pvae.comparison.cells.train_cell import train_and_evaluate
from pvae.comparison.processes.failure_reasons import reason_of
from pvae.comparison.processes.shared_splits import PackedSplits
from pvae.comparison.processes.worker_pool import Event, EventKind
from pvae.data import Splits
from pvae.errors import InputError

__all__ = ["CellTask", "Mailbox", "run_task"]

# The data of the last comparison of this process, by the number of their object in Ray's store.
_UNPACKED: dict[str, Splits] = {}


class Mailbox:
    """An actor of Ray that keeps events of the cells until the process of the caller reads them."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def put(self, event: Event) -> None:
        """Keep an event."""
        self._events.append(event)

    def take(self) -> list[Event]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events


@dataclass(frozen=True)
class CellTask:
    """The data of a task besides its job.

    Attributes:
        packed: the splits without their tensors.
        tensors: the references to the tensors in Ray's object store, a list of one.
        mailbox: the actor for events.
        threads: number of torch threads.
        folder: the working folder of the caller, to which paths are relative.
    """

    packed: PackedSplits
    tensors: list[Any]
    mailbox: Any
    threads: int
    folder: str


def run_task(task: CellTask, index: int, job: Job) -> Event:
    """Run one cell in a worker process of Ray, and return its last event.

    Args:
        task: the data that all tasks of the comparison share.
        index: the index of the cell.
        job: the cell with its factories and options.
    """
    with suppress(OSError):  # the folder may not exist here, but the paths of the cell may be absolute
        os.chdir(task.folder)
    task.mailbox.put.remote(Event(EventKind.STARTED, index))

    def report_progress(progress: Any) -> None:
        require_own_lock(job.cell)
        task.mailbox.put.remote(Event(EventKind.PROGRESS, index, progress))

    try:
        _require_shared_folder(job.cell)
        torch.set_num_threads(task.threads)
        summary = train_and_evaluate(job, _unpack(task), report_progress)
        return Event(EventKind.DONE, index, summary)
    except Exception as error:  # a user's program may raise any error
        return Event(EventKind.FAILED, index, reason_of(error))


def _require_shared_folder(cell: Cell) -> None:
    """Raise InputError if this machine cannot read the file that the caller has written for the cell."""
    if not cell.record.exists():
        raise InputError(
            f"out needs a folder that all machines of the cluster share, but {socket.gethostname()} has no "
            f"{cell.record}. Give a folder on a shared file system."
        )


def _unpack(task: CellTask) -> Splits:
    """Return the data, which are copied from Ray's object store once for each process."""
    import ray

    (reference,) = task.tensors
    if reference.hex() not in _UNPACKED:
        _UNPACKED.clear()
        _UNPACKED[reference.hex()] = task.packed.restore(load(ray.get(reference).tobytes()))
    return _UNPACKED[reference.hex()]
