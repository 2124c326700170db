"""The executors of a comparison by name."""

from __future__ import annotations

from pvae.comparison.processes.executor import Executor
from pvae.comparison.processes.local_executor import LocalExecutor
from pvae.comparison.processes.ray_executor import RayExecutor
from pvae.comparison.processes.resources import CellResources
from pvae.comparison.processes.slurm_executor import SlurmExecutor
from pvae.comparison.processes.worker_plan import WorkerPlan
from pvae.errors import InputError
from pvae.names import unknown

__all__ = ["EXECUTORS", "choose_executor"]

EXECUTORS = ("local", "ray", "slurm")


def choose_executor(
    name: str,
    jobs: int,
    *,
    workers: int | None,
    threads: int | None,
    cpus_per_cell: int | None,
    gpus_per_cell: float | None,
    device: str,
) -> Executor:
    """Return the executor of a name.

    Args:
        name: ``"local"``, ``"ray"`` or ``"slurm"``.
        jobs: number of cells.
        workers: number of worker processes of this machine; None to choose it.
        threads: number of torch threads; None to choose it.
        cpus_per_cell: number of CPUs of a cell in a cluster; None for 1.
        gpus_per_cell: number of GPUs of a cell in a cluster; None for 0.
        device: name of the device of the trainings.

    Raises:
        InputError: if the name is unknown, a number cannot be used, or an option does not belong to the executor.
    """
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    if name == "local":
        for option, value in (("cpus_per_cell", cpus_per_cell), ("gpus_per_cell", gpus_per_cell)):
            if value is not None:
                raise InputError(f"{option} needs executor='ray' or 'slurm'; use workers and threads on one machine.")
        return LocalExecutor(WorkerPlan.choose(jobs, workers, threads, device))
    if workers is not None:
        raise InputError(f"workers needs executor='local'; with {name!r}, give cpus_per_cell.")
    resources = CellResources.choose(
        1 if cpus_per_cell is None else cpus_per_cell,
        0 if gpus_per_cell is None else gpus_per_cell,
        fractions=name == "ray",
    )
    return SlurmExecutor() if name == "slurm" else RayExecutor.choose(resources, threads)
