"""The progress of a comparison on standard error: live bars on a terminal, lines elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
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
from pvae.logs import is_hidden, is_recorded, say
from pvae.names import printable
from pvae.train.progress import SECONDS_BETWEEN_LINES

__all__ = ["ProgressDisplay"]

_LOG = logging.getLogger(__name__)
# The remaining share of a cell's time is its evaluation.
_TRAINING_SHARE = 0.9
# Until this share of one cell is done, the estimate of the remaining time is too inaccurate to show.
_LEAST_SHARE = 0.05


class ProgressDisplay:
    """Shows the events of the cells; a context manager.

    Without bars, it shows a line for each cell that has ended and, every minute, one for each running cell.

    Args:
        cells: the cells that will run, in the order of their jobs.
        done: number of cells that were done before.
        epochs: number of epochs of each training.
        shown: whether to write anything.
        interval: the number of seconds between two lines about the same running cell.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        done: int,
        epochs: Sequence[int],
        *,
        shown: bool = True,
        interval: float = SECONDS_BETWEEN_LINES,
    ) -> None:
        has_bars = shown and sys.stderr.isatty() and not is_hidden() and not is_recorded(_LOG)
        self._console = Console(stderr=True, highlight=False) if has_bars else None
        self._shown, self._interval = shown, interval
        self._states: dict[int, str] = {}  # the states of the running cells, as text
        self._has_ended = threading.Event()
        self._cells, self._epochs = cells, epochs
        self._total, self._finished = len(cells) + done, done
        self._tasks: dict[int, TaskID] = {}
        self._start_times: dict[int, float] = {}
        self._shares: dict[int, float] = {}  # the share of each running cell that is done
        self._start = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not has_bars,
            transient=True,
        )
        self._overall = self._bars.add_task("cells", total=self._total, completed=done, note="")

    def __enter__(self) -> ProgressDisplay:
        self._bars.start()
        if self._shown and self._console is None:
            threading.Thread(target=self._repeat_states, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_ended.set()
        self._bars.stop()

    def _repeat_states(self) -> None:
        """Show each running cell at regular times, until the block has ended."""
        while not self._has_ended.wait(self._interval):
            for line in self.describe_running(time.monotonic()):
                self.write_line(line)

    def describe_running(self, now: float) -> list[str]:
        """Return a line for each cell that has run for an interval or longer.

        Args:
            now: the time in seconds, of `time.monotonic`.
        """
        states = dict(self._states)  # a copy, because the main thread may end a cell in the meantime
        durations = {job: now - self._start_times[job] for job in states}
        return [
            f"running: {self._cells[job].label}: {state} ({format_duration(durations[job])})"
            for job, state in states.items()
            if durations[job] >= self._interval
        ]

    def write_line(self, line: str) -> None:
        """Write one line, above the bars if there are any."""
        if self._console is not None:
            self._console.print(escape(printable(line)), soft_wrap=True)
        elif self._shown:
            say(_LOG, printable(line))

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
        self._states[job] = "starting"
        self._tasks[job] = self._bars.add_task(name, total=self._epochs[job], note="starting")

    def _show_progress(self, job: int, content: Any) -> None:
        epoch, note = content
        self._shares[job] = _TRAINING_SHARE * epoch / max(1, self._epochs[job])
        self._states[job] = f"epoch {epoch}/{self._epochs[job]}{', ' if note else ''}{note}"
        self._bars.update(self._tasks[job], completed=epoch, note=escape(note))
        self._bars.update(self._overall, note=self._remaining_time())

    def _show_end(self, event: Event) -> None:
        self._finished += 1
        self._shares.pop(event.job, None)
        self._states.pop(event.job, None)
        self._bars.remove_task(self._tasks.pop(event.job))
        self._bars.update(self._overall, completed=self._finished, note=self._remaining_time())
        duration = format_duration(time.monotonic() - self._start_times[event.job])
        result = f"failed: {event.content}" if event.kind is EventKind.FAILED else str(event.content)
        self.write_line(f"[{self._finished}/{self._total}] {self._cells[event.job].label}: {result} ({duration})")

    def _remaining_time(self) -> str:
        """Return the remaining time as text, from the share of this call's cells that is done."""
        done_before = self._total - len(self._cells)
        done = self._finished - done_before + sum(self._shares.values())
        if done < _LEAST_SHARE:
            return ""
        remaining = (time.monotonic() - self._start) * (len(self._cells) - done) / done
        return f"about {format_duration(max(0.0, remaining))} left"
