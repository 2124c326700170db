"""Where cells run: in worker processes within the cores at hand, or in this process."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvae.comparison.grid_progress import Display
from pvae.comparison.plan import Job, can_travel, is_done, record
from pvae.comparison.sharing import share
from pvae.comparison.work import train_and_judge
from pvae.comparison.workers import Event, StartError, run_here, run_jobs
from pvae.data import Splits
from pvae.errors import InputError
from pvae.train.devices import resolve

__all__ = ["Room", "cores", "run_cells"]

_GPU_WORKERS = 3  # a small net leaves most of a card idle while it waits for its process


@dataclass(frozen=True)
class Room:
    """How many processes and threads, and on what."""

    workers: int
    threads: int
    device: str

    @classmethod
    def of(cls, jobs: Sequence[Job], workers: int | None, threads: int | None, device: str) -> Room:
        count, where = cores(), resolve(device).type
        if workers is None:
            workers = min(len(jobs), count, _GPU_WORKERS if where == "cuda" else count)
        if workers < 0 or (threads is not None and threads < 1):
            raise InputError(f"workers is at least 0 and threads at least 1; got {workers} and {threads}.")
        return cls(workers, threads or max(1, count // max(1, workers)), where)

    def __str__(self) -> str:
        if self.workers == 0:
            return "in this process"
        many = f"{self.workers} worker process{'es' if self.workers > 1 else ''}"
        card = " that share the CUDA device" if self.device == "cuda" else ""
        return f"in {many}{card}, {self.threads} thread{'s' if self.threads > 1 else ''} each"


def cores() -> int:
    """Cores that this process may use: those it is bound to, within the quota of a container."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return bound if quota == "max" else max(1, min(bound, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return bound


def run_cells(jobs: Sequence[Job], splits: Splits, room: Room, shown: bool) -> tuple[dict[str, str], list[str]]:
    """Run the cells that are not done; return reasons of failures by label, and lines for the page."""
    waiting = [job for job in jobs if not is_done(job.cell)]
    failures: dict[str, str] = {}
    epochs = int(jobs[0].options["epochs"])
    with Display([job.cell for job in waiting], len(jobs) - len(waiting), epochs, shown=shown) as display:
        if len(waiting) < len(jobs):
            display.say(f"{len(jobs) - len(waiting)} of {len(jobs)} cells were done before and are kept.")

        def report(event: Event) -> None:
            if event.kind == "failed":
                failures[waiting[event.job].cell.label] = str(event.content)
            elif event.kind == "began":
                record(waiting[event.job].cell)
            display(event)

        try:
            with _terminable():
                return failures, _spread(waiting, splits, room, report, display.say)
        except (KeyboardInterrupt, SystemExit):
            display.say("Stopped; finished cells and checkpoints are kept, and the same call goes on from them.")
            raise


@contextmanager
def _terminable() -> Iterator[None]:
    """Make SIGTERM an exception, so that the workers are stopped too; only a main thread may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _spread(
    jobs: Sequence[Job],
    splits: Splits,
    room: Room,
    report: Callable[[Event], None],
    say: Callable[[str], None],
) -> list[str]:
    """Run jobs in workers, and those that cannot travel, or for which no worker starts, in this process."""
    here = [index for index, job in enumerate(jobs) if room.workers == 0 or not can_travel(job)]
    there = [index for index in range(len(jobs)) if index not in set(here)]
    notes = []
    if there:
        say(f"{len(there)} cells {room}.")
    if here and room.workers:
        names = ", ".join(
            dict.fromkeys(f"{jobs[index].cell.model} under {jobs[index].cell.objective}" for index in here)
        )
        notes.append(f"Ran in one process, because what makes them cannot be pickled for another: {names}.")
        say(notes[-1])
    try:
        _in_workers(jobs, there, splits, room, report)
    except StartError as error:
        notes.append(f"Ran in one process: {error}. (A script calls compare under if __name__ == '__main__'.)")
        say(notes[-1])
        here += [there[index] for index in error.left]
    run_here([jobs[index] for index in here], train_and_judge, lambda: splits, numbers=here, report=report)
    return notes


def _in_workers(
    jobs: Sequence[Job], chosen: Sequence[int], splits: Splits, room: Room, report: Callable[[Event], None]
) -> None:
    if not chosen:
        return
    with tempfile.TemporaryDirectory(prefix="pvae-") as folder:
        run_jobs(
            [jobs[index] for index in chosen],
            train_and_judge,
            share(splits, Path(folder), room.threads),
            workers=room.workers,
            report=lambda event: report(Event(event.kind, chosen[event.job], event.content)),
        )
