"""Jobs for worker processes. Apart from the tests that use them, because a worker imports this file: it is light."""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass


@dataclass
class Unbuildable:
    """Can be pickled, and cannot be rebuilt."""

    def __reduce__(self):
        return int, ("no number",)


def work(job, shared, report_progress):
    report_progress(f"at {job}")
    if job == "raise":
        raise ValueError("a reason\nand more")
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "fill":
        raise OSError(errno.ENOSPC, "No space left", "file")
    if job == "leave":
        os._exit(7)
    return f"{job} {shared}"


def describe_process(job, shared, report_progress):
    """Return the process of the job, and the number of calls of `count_calls` in it."""
    return os.getpid(), shared[0]


_CALLS = []


def count_calls():
    _CALLS.append(None)
    return [len(_CALLS)]


def nap(job, shared, report_progress):
    report_progress(os.getpid())
    time.sleep(60)


def shared():
    return "shared"


def broken():
    os._exit(3)


def hold_shared_data(ready):
    """Hold the folder of shared data, and send its path."""
    from pvae.comparison.processes.shared_splits import shared_folder

    with shared_folder() as folder:
        (folder / "splits.safetensors").write_bytes(b"data")
        ready.put(str(folder))
        time.sleep(60)
