"""Jobs over worker processes: one that fails, or whose process dies, takes no other with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

__all__ = ["Event", "StartError", "Tell", "Work", "run_here", "run_jobs"]

Tell = Callable[[Any], None]
Work = Callable[[Any, Any, Tell], Any]
_STARTS = 2  # workers that die in a row before they are ready, until the rest is given up


class StartError(RuntimeError):
    """Worker processes do not even start, so that no job can be blamed; `left` are the jobs not yet done."""

    def __init__(self, message: str, left: list[int]) -> None:
        super().__init__(message)
        self.left = left


@dataclass(frozen=True)
class Event:
    """What happened to a job.

    Args:
        kind: ``"began"``, ``"news"`` (the job told something), ``"done"`` or ``"failed"``.
        job: its index.
        content: what it told, its result, or the reason of its failure.
    """

    kind: str
    job: int
    content: Any = None


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    job: int | None = None

    @property
    def signs(self) -> tuple[Connection, int]:
        """What to wait on: its pipe has a message, or its process has ended."""
        return self.pipe, self.process.sentinel


@dataclass
class _Crew:
    """The worker processes, the jobs that wait for them, and where events go."""

    start: Callable[[], _Worker]
    report: Callable[[Event], None]
    waiting: deque[int]
    workers: list[_Worker] = field(default_factory=list)
    stillborn: int = 0

    def busy(self) -> bool:
        return bool(self.waiting) or any(worker.job is not None for worker in self.workers)

    def staff(self, count: int) -> None:
        """Start workers up to `count`, but no more than there is work for."""
        at_work = sum(worker.job is not None for worker in self.workers)
        while len(self.workers) < min(count, at_work + len(self.waiting)):
            self.workers.append(self.start())

    def hear(self, worker: _Worker) -> None:
        """Take every message of a worker, and its death where the pipe is closed."""
        alive = worker.process.is_alive()
        try:
            while worker.pipe.poll():
                self._take(worker, *worker.pipe.recv())
        except (EOFError, OSError):
            alive = False
        if not alive:
            self._bury(worker)

    def _take(self, worker: _Worker, kind: str, content: Any) -> None:
        if kind == "ready":
            worker.ready, self.stillborn = True, 0
        elif worker.job is not None:
            job = worker.job
            if kind in ("done", "failed"):
                worker.job = None
            self.report(Event(kind, job, content))

    def _bury(self, worker: _Worker) -> None:
        worker.process.join(5)
        worker.pipe.close()
        self.workers.remove(worker)
        cause = _cause(worker.process.exitcode)
        if not worker.ready:
            self.stillborn += 1
            if self.stillborn >= _STARTS:
                raise StartError(f"worker processes do not start: {cause}", sorted(self.waiting))
        elif worker.job is not None:
            self.report(Event("failed", worker.job, f"its process {cause}"))

    def give(self, jobs: Sequence[Any]) -> None:
        for worker in self.workers:
            if worker.ready and worker.job is None and self.waiting:
                worker.job = self.waiting.popleft()
                self.report(Event("began", worker.job))
                try:
                    worker.pipe.send(jobs[worker.job])
                except OSError:  # it died while idle: its sentinel says so in the next round
                    continue

    def stop(self) -> None:
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(10)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()


def run_jobs(
    jobs: Sequence[Any],
    work: Work,
    prepare: Callable[[], Any],
    *,
    workers: int,
    report: Callable[[Event], None],
) -> None:
    """Run ``work(job, shared, tell)`` for each job in worker processes, and report what happens.

    Workers live until all jobs are done and call ``prepare()`` once, which gives ``shared``. A job fails
    alone: by an exception, or by the death of its process (killed, out of memory), which is then replaced.
    On any exception here, ``KeyboardInterrupt`` too, the workers are terminated.

    Args:
        jobs: what can be pickled.
        work: a function that a fresh process can import.
        prepare: the same, without arguments.
        workers: processes at a time.
        report: called in this process with each ``Event``.

    Raises:
        StartError: if processes die before they are ready.
    """
    crew = _Crew(lambda: _start(work, prepare), report, deque(range(len(jobs))))
    try:
        while crew.busy():
            crew.staff(workers)
            crew.give(jobs)
            heard = wait([each for worker in crew.workers for each in worker.signs])
            for worker in [each for each in crew.workers if not set(heard).isdisjoint(each.signs)]:
                crew.hear(worker)
    finally:
        crew.stop()


def run_here(
    jobs: Sequence[Any],
    work: Work,
    prepare: Callable[[], Any],
    *,
    numbers: Sequence[int],
    report: Callable[[Event], None],
) -> None:
    """Run jobs one after another in this process, with the same events; `numbers` are the jobs' indices."""
    shared = prepare()
    for number, job in zip(numbers, jobs, strict=True):
        report(Event("began", number))

        def tell(news: Any, number: int = number) -> None:
            report(Event("news", number, news))

        try:
            event = Event("done", number, work(job, shared, tell))
        except Exception as error:
            event = Event("failed", number, _reason(error))
        report(event)


def _start(work: Work, prepare: Callable[[], Any]) -> _Worker:
    # Spawned, not forked: torch's threads and CUDA do not survive a fork.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, work, prepare), daemon=True)
    process.start()
    there.close()
    return _Worker(process, here)


def _serve(pipe: Connection, work: Work, prepare: Callable[[], Any]) -> None:
    """The life of a worker; it ends when the other end of its pipe is closed."""
    # Ctrl-C reaches every process of a terminal's group; the parent alone decides what it means.
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    with suppress(KeyboardInterrupt):
        shared = prepare()
        _send(pipe, ("ready", None))
        while True:
            _send(pipe, _answer(pipe, work, shared))


def _answer(pipe: Connection, work: Work, shared: Any) -> tuple[str, Any]:
    try:
        job = pipe.recv()
    except (EOFError, OSError):
        raise SystemExit(0) from None
    except Exception as error:  # what was sent cannot be rebuilt here: an import that fails, say
        return "failed", _reason(error)
    try:
        return "done", work(job, shared, lambda news: _send(pipe, ("news", news)))
    except Exception as error:
        return "failed", _reason(error)


def _send(pipe: Connection, message: tuple[str, Any]) -> None:
    try:
        pipe.send(message)
    except OSError:  # the parent is gone, killed perhaps: nobody waits for the rest
        raise SystemExit(0) from None


def _reason(error: Exception) -> str:
    """The error in one line; its kind is named unless it is written for people."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "no message"
    return text if type(error).__module__.startswith("pvae.") else f"{type(error).__name__}: {text}"


def _cause(code: int | None) -> str:
    if code is None:
        return "stopped answering"
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
