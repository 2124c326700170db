"""The number of worker processes and threads of a comparison."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pvae.checks import require_whole
from pvae.train.devices import resolve

__all__ = ["WorkerPlan", "count_cores"]

_MOST_WORKERS_ON_GPU = 3  # with a small network, most of the GPU is idle while it waits for its process


@dataclass(frozen=True)
class WorkerPlan:
    """The number of processes that run the cells, and their device.

    Attributes:
        workers: number of processes; 0 to run all cells in the process of the caller.
        threads: number of torch threads in each process.
        device: type of the device, ``"cpu"`` or ``"cuda"``.
    """

    workers: int
    threads: int
    device: str

    @classmethod
    def choose(cls, jobs: int, workers: int | None, threads: int | None, device: str) -> WorkerPlan:
        """Return the plan for a number of jobs. By default there are as many workers as cores.

        Args:
            jobs: number of jobs.
            workers: number of processes that the user asks for; None to choose it.
            threads: number of threads that the user asks for; None for the cores divided by the workers, and at most
                the number of the variable ``OMP_NUM_THREADS``.
            device: name of the device, or ``"auto"``.

        Raises:
            InputError: if a number is too small, or the device does not exist.
        """
        cores, device_type = count_cores(), resolve(device).type
        if workers is None:
            workers = min(jobs, cores, _MOST_WORKERS_ON_GPU) if device_type == "cuda" else min(jobs, cores)
        workers = require_whole(workers, "workers", least=0)
        threads = None if threads is None else require_whole(threads, "threads")
        share = max(1, cores // max(1, workers))
        return cls(workers, threads or min(share, _threads_of_environment() or share), device_type)

    def __str__(self) -> str:
        if self.workers == 0:
            return "in this process"
        processes = f"{self.workers} worker process{'es' if self.workers > 1 else ''}"
        card = " that share the CUDA device" if self.device == "cuda" else ""
        return f"in {processes}{card}, {self.threads} thread{'s' if self.threads > 1 else ''} each"


def _threads_of_environment() -> int | None:
    """Return the number of threads that ``OMP_NUM_THREADS`` allows, which torch reads too; None if it is not set."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None


def count_cores() -> int:
    """Return the number of cores that this process may use, within its CPU affinity and the quota of a container."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return bound if quota == "max" else max(1, min(bound, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return bound
