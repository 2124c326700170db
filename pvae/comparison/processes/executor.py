"""The interface of executors, which run the cells of a comparison, and the handling of the events of cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pvae.comparison.base import Outcome
from pvae.comparison.cells.cell_files import write_config
from pvae.comparison.cells.plan import Job
from pvae.comparison.processes.progress_display import ProgressDisplay
from pvae.comparison.processes.worker_pool import Event, EventKind
from pvae.data import Splits

__all__ = ["CellRuns", "Executor", "WaitingCells"]


@dataclass
class CellRuns:
    """The outcomes of cells that were done before, the failures of cells that ran, and notes on them.

    Attributes:
        kept: the outcome of each cell that was done before, by the label of the cell.
        failures: the reason of each failure, by the label of the cell.
        notes: lines for the page, on cells that did not run in a worker process.
    """

    kept: dict[str, Outcome] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class WaitingCells:
    """The cells that are not done: their jobs and data, their failures, and the display of their events.

    Args:
        jobs: the jobs of the cells.
        splits: the data.
        display: shows the events.
    """

    def __init__(self, jobs: Sequence[Job], splits: Splits, display: ProgressDisplay) -> None:
        self.jobs, self.splits, self.display = jobs, splits, display
        self.runs = CellRuns()

    def handle_event(self, event: Event) -> None:
        """Keep the failure of a cell, write the options of a cell that starts, and show the event.

        Args:
            event: the event; its job is an index of ``jobs``.
        """
        cell = self.jobs[event.job].cell
        if event.kind is EventKind.FAILED:
            self.runs.failures[cell.label] = str(event.content)
        elif event.kind is EventKind.STARTED:
            write_config(cell)
        self.display.show_event(event)

    def note(self, line: str) -> None:
        """Keep a line for the page, and show it."""
        self.runs.notes.append(line)
        self.display.write_line(line)

    def describe(self, indices: Iterable[int]) -> str:
        """Return the models and objectives of some cells in one line."""
        cells = [self.jobs[index].cell for index in indices]
        return ", ".join(dict.fromkeys(f"{cell.model} under {cell.objective}" for cell in cells))


class Executor(ABC):
    """Runs the cells; its text describes on the page how they ran."""

    @abstractmethod
    def run(self, cells: WaitingCells) -> None:
        """Run all cells that wait, and pass their events to ``cells``."""
