"""Cells that jobs of a Slurm array run: the commands of the jobs, the script, and the collection of the results."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pvae.comparison.base import Cell
from pvae.comparison.cells.cell_failure import read_failure
from pvae.comparison.cells.cell_lock import is_running
from pvae.comparison.processes.executor import Executor, WaitingCells
from pvae.comparison.processes.resources import CellResources
from pvae.names import printable

__all__ = ["SlurmExecutor", "array_script", "plan_lines"]


@dataclass(frozen=True)
class SlurmExecutor(Executor):
    """Runs no cell: each cell is a job of Slurm. The cells that are not done count as failed, with the reason."""

    def __str__(self) -> str:
        return "as jobs of Slurm"

    def run(self, cells: WaitingCells) -> None:
        """Report for each cell that is not done whether it is running, has failed or was stopped."""
        for job in cells.jobs:
            state = _state(job.cell)
            cells.runs.failures[job.cell.label] = state
            cells.display.write_line(f"{job.cell.label}: {state}")


def _state(cell: Cell) -> str:
    """Return the reason why a cell has no result, in one line."""
    if is_running(cell):
        return "it is running, or its machine has failed"
    failure = read_failure(cell)
    if failure:
        return failure
    if cell.folder.exists():
        return "it was stopped before its end; run it again to continue it"
    return "it has not run"


def plan_lines(command: Sequence[str], cells: Sequence[Cell]) -> list[str]:
    """Return one line of a shell for each cell: the command that runs it, with the name of the cell as a comment.

    Args:
        command: the command of the comparison, to which ``--cell`` and the number of the cell are added.
        cells: the cells in the order of their numbers.
    """
    text = shlex.join(command)
    return [f"{text} --cell {number}  # {printable(cell.label)}" for number, cell in enumerate(cells, start=1)]


def array_script(plan: Path, folder: Path, cells: int, resources: CellResources) -> str:
    """Return a script for ``sbatch`` in which each job of an array runs one line of a plan.

    Args:
        plan: the file of the plan.
        folder: the working folder of the jobs, to which the paths of the command and of the plan are relative.
        cells: number of cells.
        resources: the resources of each cell.
    """
    gpus = [f"#SBATCH --gpus-per-task={resources.gpus:g}"] if resources.gpus else []
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=pvae-compare",
        f"#SBATCH --array=1-{cells}",
        "#SBATCH --ntasks=1",
        f"#SBATCH --cpus-per-task={resources.cpus}",
        *gpus,
        "#SBATCH --requeue",
        f"cd {shlex.quote(str(folder))} || exit 1",
        "# Each line of the plan is the command of one cell.",
        f'eval "exec $(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {shlex.quote(str(plan))})"',
    ]
    return "\n".join(lines) + "\n"
