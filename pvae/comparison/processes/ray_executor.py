"""Cells as tasks in a cluster of Ray."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pvae.checks import require_whole
from pvae.comparison.base import Cell
from pvae.comparison.cells.cell_files import write_config
from pvae.comparison.cells.cell_lock import release_cell
from pvae.comparison.cells.train_cell import train_and_evaluate
from pvae.comparison.processes.executor import Executor, WaitingCells
from pvae.comparison.processes.failure_reasons import reason_of
from pvae.comparison.processes.local_executor import reason_for_one_process
from pvae.comparison.processes.ray_tasks import CellTask, Mailbox, run_task
from pvae.comparison.processes.resources import CellResources
from pvae.comparison.processes.shared_splits import pack_splits
from pvae.comparison.processes.worker_pool import Event, EventKind, run_in_process
from pvae.errors import InputError

__all__ = ["RayExecutor"]

_MOST_ATTEMPTS = 3  # attempts for a cell with a lost worker process or machine
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_END = 10.0  # after an interrupt, for a checkpoint


@dataclass(frozen=True)
class RayExecutor(Executor):
    """Runs each cell as a task of Ray, in the cluster of the environment or in a new one on this machine.

    Attributes:
        resources: the CPUs and GPUs of each cell.
        threads: number of torch threads of each cell.
    """

    resources: CellResources
    threads: int

    @classmethod
    def choose(cls, resources: CellResources, threads: int | None) -> RayExecutor:
        """Return the executor after a check that Ray is installed.

        Args:
            resources: the CPUs and GPUs of each cell.
            threads: the requested number of torch threads; None for the number of CPUs.

        Raises:
            InputError: if Ray is absent, or the number of threads cannot be used.
        """
        if importlib.util.find_spec("ray") is None:
            raise InputError("executor='ray' needs Ray, which is not installed. Install it: pip install 'pvae[ray]'.")
        return cls(resources, resources.cpus if threads is None else require_whole(threads, "threads"))

    def __str__(self) -> str:
        gpus = f", {self.resources.gpus:g} GPU" if self.resources.gpus else ""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"as tasks of Ray, {self.resources.cpus} CPU{gpus} and {threads} each"

    def run(self, cells: WaitingCells) -> None:
        """Run all waiting cells; cells that cannot be sent to another process run in this one."""
        reason = reason_for_one_process(cells.splits) if cells.jobs else ""
        for_ray = [index for index, job in enumerate(cells.jobs) if not reason and _can_be_sent(job)]
        for_process = [index for index in range(len(cells.jobs)) if index not in set(for_ray)]
        if reason:
            cells.note(f"Ran in one process, because {reason}.")
        elif for_process:
            names = cells.describe(for_process)
            cells.note(f"Ran in one process, because their factories cannot be pickled: {names}.")
        if for_ray:
            with _cluster() as address:
                _require_resources(self.resources)
                cells.display.write_line(f"{len(for_ray)} cells {self}, in {address}.")
                _RayCells(self, cells, for_ray).run()
        run_in_process(
            [cells.jobs[index] for index in for_process],
            train_and_evaluate,
            lambda: cells.splits,
            indices=for_process,
            report=cells.handle_event,
        )


class _RayCells:
    """The tasks that run, the attempts of each cell, and the cells that have started."""

    def __init__(self, executor: RayExecutor, cells: WaitingCells, indices: Sequence[int]) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray, self._cells, self._indices = ray, cells, indices
        # The mailbox must continue to exist if other machines are lost.
        beside_caller = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox = ray.remote(num_cpus=0, scheduling_strategy=beside_caller)(Mailbox).remote()
        packed, tensors = pack_splits(cells.splits)
        reference = ray.put(np.frombuffer(tensors, dtype=np.uint8))
        self._task = ray.put(CellTask(packed, [reference], self._mailbox, executor.threads, os.getcwd()))
        # Attempts are counted here, because the locks of a lost machine must be removed before the next attempt.
        self._remote = ray.remote(
            num_cpus=executor.resources.cpus, num_gpus=executor.resources.gpus, max_retries=0, name="pvae-cell"
        )(run_task)
        self._running: dict[Any, int] = {}
        self._attempts: Counter[int] = Counter()
        self._started: set[int] = set()

    def run(self) -> None:
        """Run all cells; if this is left by an exception, the tasks are cancelled."""
        try:
            for index in self._indices:
                self._submit(index)
            while self._running:
                done, _ = self._ray.wait(list(self._running), timeout=_SECONDS_BETWEEN_LOOKS)
                self._show_messages()
                for reference in done:
                    self._finish(reference)
        finally:
            self._cancel(list(self._running))
            self._ray.kill(self._mailbox)

    def _submit(self, index: int) -> None:
        job = replace(self._cells.jobs[index], cell=self._cell(index))
        write_config(
            job.cell
        )  # before the task starts, because the task checks by this file that it can read the folder
        self._attempts[index] += 1
        self._running[self._remote.remote(self._task, index, job)] = index

    def _cell(self, index: int) -> Cell:
        cell = self._cells.jobs[index].cell
        return replace(cell, folder=cell.folder.absolute())

    def _show_messages(self) -> None:
        with suppress(self._ray.exceptions.RayActorError):  # the cells continue without the mailbox
            for event in self._ray.get(self._mailbox.take.remote()):
                if event.job in self._running.values():  # a message may arrive after the end of its cell
                    self._show(event)

    def _show(self, event: Event) -> None:
        """Show an event; the start of a cell once, also if it starts again."""
        if event.job not in self._started:
            self._started.add(event.job)
            self._cells.handle_event(Event(EventKind.STARTED, event.job))
        if event.kind is not EventKind.STARTED:
            self._cells.handle_event(event)

    def _finish(self, reference: Any) -> None:
        """Show how a task has ended; run its cell again if its process or its machine is lost."""
        index = self._running.pop(reference)
        try:
            self._show(self._ray.get(reference))
        except (self._ray.exceptions.RayTaskError, self._ray.exceptions.TaskUnschedulableError) as error:
            self._show(Event(EventKind.FAILED, index, reason_of(error)))
        except self._ray.exceptions.RayError as error:
            self._retry(index, reason_of(error).partition(". ")[0])  # Ray appends advice of several sentences

    def _retry(self, index: int, reason: str) -> None:
        """Run a cell again, unless its process was lost too often.

        Its locks are removed, because they would stop the next process.
        """
        cell = self._cell(index)
        release_cell(cell)
        if self._attempts[index] >= _MOST_ATTEMPTS:
            self._show(Event(EventKind.FAILED, index, f"its process was lost {_MOST_ATTEMPTS} times ({reason})"))
            return
        self._cells.note(f"{cell.label} runs again from its last checkpoint, because its process was lost ({reason}).")
        self._submit(index)

    def _cancel(self, references: Sequence[Any]) -> None:
        """Interrupt tasks, so that they write a checkpoint; end those that do not stop."""
        if not references:
            return
        for reference in references:
            self._ray.cancel(reference, force=False)
        _, going_on = self._ray.wait(list(references), num_returns=len(references), timeout=_SECONDS_TO_END)
        for reference in going_on:
            with suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(reference, force=True)


@contextmanager
def _cluster() -> Iterator[str]:
    """Connect to the cluster of the environment, or start one on this machine, and yield its description."""
    import ray

    connected = ray.is_initialized()
    if not connected:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics are sent
        try:
            ray.init(log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise InputError(f"Ray needs a cluster that can be reached or started; {reason_of(error)}") from error
    nodes = [node for node in ray.nodes() if node["Alive"]]
    cpus = sum(node["Resources"].get("CPU", 0) for node in nodes)
    try:
        yield f"a cluster of {len(nodes)} machine{'s' if len(nodes) > 1 else ''} with {cpus:g} CPUs"
    finally:
        if not connected:
            ray.shutdown()


def _require_resources(resources: CellResources) -> None:
    """Raise InputError if no machine has the resources of a cell, because Ray would wait for such a machine forever."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(machine.get("CPU", 0) >= resources.cpus and machine.get("GPU", 0) >= resources.gpus for machine in machines):
        return
    found = "; ".join(sorted({f"{each.get('CPU', 0):g} CPU, {each.get('GPU', 0):g} GPU" for each in machines}))
    raise InputError(
        f"Each cell needs a machine with {resources.cpus} CPU and {resources.gpus:g} GPU; the machines of the cluster "
        f"have {found}. Give smaller cpus_per_cell or gpus_per_cell."
    )


def _can_be_sent(job: Any) -> bool:
    """Return whether Ray can pickle a job; it can pickle the classes of a script or notebook too."""
    from ray import cloudpickle

    try:
        cloudpickle.dumps(job)
    except Exception:  # a user's own __reduce__ may raise any error
        return False
    return True
