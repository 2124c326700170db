"""Run jobs in worker processes. A job that fails, or loses its process, does not stop the other jobs."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from pvae.comparison.processes.failure_reasons import describe_exit, reason_of
from pvae.files import is_disk_full

__all__ = ["Event", "EventKind", "ReportProgress", "StartError", "Work", "run_in_process", "run_in_workers"]

ReportProgress = Callable[[Any], None]
Work = Callable[[Any, Any, ReportProgress], Any]
_READY = "ready"  # a worker's first message, which is not about a job
_DISK_FULL = "disk full"  # the message of a worker that could not write; the other jobs cannot write either
_SECONDS_TO_END = 10  # after SIGTERM, for a checkpoint
_MOST_FAILED_STARTS = 2  # failed starts in a row, after which no more workers are started


class StartError(RuntimeError):
    """Worker processes do not start, which is not a failure of a job.

    Args:
        message: what failed.
        unfinished: the indices of the jobs that are not done.

    Attributes:
        unfinished: the indices of the jobs that are not done.
    """

    def __init__(self, message: str, unfinished: list[int]) -> None:
        super().__init__(message)
        self.unfinished = unfinished


class EventKind(StrEnum):
    """The kinds of events of a job."""

    STARTED = "started"
    PROGRESS = "progress"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Event:
    """An event of a job.

    Attributes:
        kind: the kind of the event.
        job: the index of the job.
        content: what the job reported (`PROGRESS`), its result (`DONE`), or the reason of its failure (`FAILED`).
    """

    kind: EventKind
    job: int
    content: Any = None


@dataclass
class _Worker:
    """A worker process, the pipe to it, and the index of the job that it runs."""

    process: BaseProcess
    pipe: Connection
    ready: bool = False
    job: int | None = None

    @property
    def waitables(self) -> tuple[Connection, int]:
        """The objects for `multiprocessing.connection.wait`, which wait for a message or the end of the process."""
        return self.pipe, self.process.sentinel


@dataclass
class _WorkerPool:
    """The worker processes, the waiting jobs, and the function that gets the events."""

    start: Callable[[], _Worker]
    report: Callable[[Event], None]
    waiting: deque[int]
    workers: list[_Worker] = field(default_factory=list)
    failed_starts: int = 0

    def has_work(self) -> bool:
        return bool(self.waiting) or any(worker.job is not None for worker in self.workers)

    def start_workers(self, count: int) -> None:
        """Start workers until there are `count` of them, but not more than unfinished jobs."""
        running = sum(worker.job is not None for worker in self.workers)
        while len(self.workers) < min(count, running + len(self.waiting)):
            self.workers.append(self.start())

    def assign_jobs(self, jobs: Sequence[Any]) -> None:
        """Send a waiting job to each idle worker."""
        for worker in self.workers:
            if worker.ready and worker.job is None and self.waiting:
                worker.job = self.waiting.popleft()
                self.report(Event(EventKind.STARTED, worker.job))
                try:
                    worker.pipe.send(jobs[worker.job])
                except OSError:  # the process died while it was idle; its sentinel reports this in the next round
                    continue

    def wait_for_messages(self) -> None:
        """Wait until a worker sends a message or ends, and receive from all such workers."""
        signalled = set(wait([waitable for worker in self.workers for waitable in worker.waitables]))
        for worker in [worker for worker in self.workers if not signalled.isdisjoint(worker.waitables)]:
            self._receive(worker)

    def _receive(self, worker: _Worker) -> None:
        """Receive every message of a worker; remove the worker if its process has ended."""
        alive, messages = worker.process.is_alive(), []
        try:
            while worker.pipe.poll():
                messages.append(worker.pipe.recv())
        except (EOFError, OSError):
            alive = False
        for kind, content in messages:
            self._handle_message(worker, kind, content)
        if not alive:
            self._remove(worker)

    def _handle_message(self, worker: _Worker, kind: str, content: Any) -> None:
        if kind == _DISK_FULL:
            raise OSError(*content)
        if kind == _READY:
            worker.ready = True
            self.failed_starts = 0
        elif worker.job is not None:
            job = worker.job
            if kind in (EventKind.DONE, EventKind.FAILED):
                worker.job = None
            self.report(Event(EventKind(kind), job, content))

    def _remove(self, worker: _Worker) -> None:
        """Remove a worker after its process has ended; the job that it ran has failed."""
        worker.process.join(5)
        worker.pipe.close()
        self.workers.remove(worker)
        cause = describe_exit(worker.process.exitcode)
        if not worker.ready:
            self.failed_starts += 1
            if self.failed_starts >= _MOST_FAILED_STARTS:
                raise StartError(f"worker processes do not start: {cause}", sorted(self.waiting))
        elif worker.job is not None:
            self.report(Event(EventKind.FAILED, worker.job, f"its process {cause}"))

    def stop(self) -> None:
        """End all worker processes; a second interrupt kills them immediately."""
        for worker in self.workers:
            worker.process.terminate()
        try:
            for worker in self.workers:
                worker.process.join(_SECONDS_TO_END)
        finally:
            for worker in self.workers:
                if worker.process.is_alive():
                    worker.process.kill()
                    worker.process.join()
                worker.pipe.close()


def run_in_workers(
    jobs: Sequence[Any],
    work: Work,
    prepare: Callable[[], Any],
    *,
    workers: int,
    report: Callable[[Event], None],
) -> None:
    """Run ``work(job, shared, report_progress)`` for each job in worker processes, and report the events.

    A worker calls ``prepare()`` once, which returns ``shared``, and lives until all jobs are done. If a job raises an
    error, or its process dies (killed, out of memory), only this job fails; a dead process is replaced. If this
    function is left by an exception, ``KeyboardInterrupt`` included, the workers are terminated.

    Args:
        jobs: objects that can be pickled.
        work: a function that a new process can import.
        prepare: a function without arguments that a new process can import.
        workers: number of processes at a time.
        report: called in this process with each `Event`.

    Raises:
        StartError: if processes die before they are ready.
        OSError: if the disk is full.
    """
    pool = _WorkerPool(lambda: _start_worker(work, prepare), report, deque(range(len(jobs))))
    try:
        while pool.has_work():
            pool.start_workers(workers)
            pool.assign_jobs(jobs)
            pool.wait_for_messages()
    finally:
        pool.stop()


def run_in_process(
    jobs: Sequence[Any],
    work: Work,
    prepare: Callable[[], Any],
    *,
    indices: Sequence[int],
    report: Callable[[Event], None],
) -> None:
    """Run jobs one after another in this process, and report the same events as `run_in_workers`.

    Args:
        jobs: the jobs.
        work: called as ``work(job, shared, report_progress)``.
        prepare: called once; returns ``shared``.
        indices: the index of each job in the events.
        report: called with each `Event`.

    Raises:
        OSError: if the disk is full.
    """
    shared = prepare()
    for index, job in zip(indices, jobs, strict=True):
        report(Event(EventKind.STARTED, index))

        def report_progress(content: Any, index: int = index) -> None:
            report(Event(EventKind.PROGRESS, index, content))

        try:
            event = Event(EventKind.DONE, index, work(job, shared, report_progress))
        except Exception as error:  # a user's program may raise any error
            if is_disk_full(error):
                raise
            event = Event(EventKind.FAILED, index, reason_of(error))
        report(event)


def _start_worker(work: Work, prepare: Callable[[], Any]) -> _Worker:
    # Spawned, not forked, because torch's threads and CUDA do not work after a fork.
    context = multiprocessing.get_context("spawn")
    own_end, worker_end = context.Pipe()
    process = context.Process(target=_serve, args=(worker_end, work, prepare), daemon=True)
    process.start()
    worker_end.close()
    return _Worker(process, own_end)


def _serve(pipe: Connection, work: Work, prepare: Callable[[], Any]) -> None:
    """Run jobs from the pipe until its other end is closed. This is the main function of a worker process."""
    # Ctrl-C reaches every process of the terminal's process group. Only the parent process reacts to it.
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    threading.Thread(target=_end_with_parent, daemon=True, name="pvae-parent").start()
    with suppress(KeyboardInterrupt):
        shared = prepare()
        _send(pipe, (_READY, None))
        while True:
            _send(pipe, _run_next_job(pipe, work, shared))


def _end_with_parent() -> None:
    """End this process when its parent has ended, because a long step would keep the run folder locked."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


def _run_next_job(pipe: Connection, work: Work, shared: Any) -> tuple[str, Any]:
    try:
        job = pipe.recv()
    except (EOFError, OSError):
        raise SystemExit(0) from None
    except Exception as error:  # the job cannot be rebuilt in this process, for instance because an import fails
        return EventKind.FAILED.value, reason_of(error)
    try:
        return EventKind.DONE.value, work(job, shared, lambda content: _send(pipe, (EventKind.PROGRESS.value, content)))
    except Exception as error:  # a user's program may raise any error
        if isinstance(error, OSError) and is_disk_full(error):
            return _DISK_FULL, (error.errno, error.strerror, error.filename)
        return EventKind.FAILED.value, reason_of(error)


def _send(pipe: Connection, message: tuple[str, Any]) -> None:
    try:
        pipe.send(message)
    except OSError:  # the parent process has ended, so no process waits for the result
        raise SystemExit(0) from None
