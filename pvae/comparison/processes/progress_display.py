"""The progress of a comparison on standard error: live bars on a terminal, one line for each cell elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pvae.comparison.base import Cell
from pvae.comparison.number_formats import format_duration
from pvae.comparison.processes.worker_pool import Event, EventKind
from pvae.names import printable

__all__ = ["ProgressDisplay"]

# The rest of a cell's time is its evaluation.
_TRAINING_SHARE = 0.9
# Before this share of one cell is done, an estimate of the remaining time is too rough to show.
_LEAST_SHARE = 0.05


class ProgressDisplay:
    """Shows the events of the cells; a context manager.

    Args:
        cells: the cells that will run, in the order of their jobs.
        done: number of cells that were done before.
        epochs: number of epochs of each training.
        shown: False to write nothing.
        console: where to write; standard error by default.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        done: int,
        epochs: Sequence[int],
        *,
        shown: bool = True,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console(stderr=True, quiet=not shown, highlight=False)
        self._cells, self._epochs = cells, epochs
        self._total, self._finished = len(cells) + done, done
        self._tasks: dict[int, TaskID] = {}
        self._start_times: dict[int, float] = {}
        self._shares: dict[int, float] = {}  # how much of each running cell is done
        self._start = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not (shown and self.console.is_terminal),
            transient=True,
        )
        self._overall = self._bars.add_task("cells", total=self._total, completed=done, note="")

    def __enter__(self) -> ProgressDisplay:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def write_line(self, line: str) -> None:
        """Write one line above the bars."""
        self.console.print(escape(printable(line)), soft_wrap=True)

    def show_event(self, event: Event) -> None:
        """Show one event."""
        if event.kind is EventKind.STARTED:
            self._show_start(event.job)
        elif event.kind is EventKind.PROGRESS:
            self._show_progress(event.job, event.content)
        else:
            self._show_end(event)

    def _show_start(self, job: int) -> None:
        self._start_times[job] = time.monotonic()
        name = escape(self._cells[job].label)
        self._tasks[job] = self._bars.add_task(name, total=self._epochs[job], note="starting")

    def _show_progress(self, job: int, content: Any) -> None:
        epoch, note = content
        self._shares[job] = _TRAINING_SHARE * epoch / max(1, self._epochs[job])
        self._bars.update(self._tasks[job], completed=epoch, note=escape(note))
        self._bars.update(self._overall, note=self._remaining_time())

    def _show_end(self, event: Event) -> None:
        self._finished += 1
        self._shares.pop(event.job, None)
        self._bars.remove_task(self._tasks.pop(event.job))
        self._bars.update(self._overall, completed=self._finished, note=self._remaining_time())
        duration = format_duration(time.monotonic() - self._start_times[event.job])
        result = f"failed: {event.content}" if event.kind is EventKind.FAILED else str(event.content)
        self.write_line(f"[{self._finished}/{self._total}] {self._cells[event.job].label}: {result} ({duration})")

    def _remaining_time(self) -> str:
        """Return the remaining time in words, from the share of this call's cells that is done."""
        done_before = self._total - len(self._cells)
        done = self._finished - done_before + sum(self._shares.values())
        if done < _LEAST_SHARE:
            return ""
        remaining = (time.monotonic() - self._start) * (len(self._cells) - done) / done
        return f"about {format_duration(max(0.0, remaining))} left"
