"""What a comparison says while it runs, on standard error: live on a terminal, a line per cell elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from pvae.comparison.base import Cell
from pvae.comparison.table import seconds
from pvae.comparison.workers import Event

__all__ = ["Display"]


class Display:
    """Shows the events of a comparison's cells; a context manager.

    Args:
        cells: those that will run, in the order of their jobs.
        done: how many cells were done before.
        epochs: of one training, for the bars.
        shown: False for silence.
        console: where to write; standard error by default.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        done: int,
        epochs: int,
        *,
        shown: bool = True,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console(stderr=True, quiet=not shown, highlight=False)
        self.live = shown and self.console.is_terminal
        self._cells, self._total, self._finished, self._epochs = cells, len(cells) + done, done, epochs
        self._tasks: dict[int, TaskID] = {}
        self._began: dict[int, float] = {}
        self._share: dict[int, float] = {}
        self._start = time.monotonic()
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
            console=self.console, disable=not self.live, transient=True,
        )  # fmt: skip
        self._overall = self._bars.add_task("cells", total=self._total, completed=done, note="")

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """Write one line above the bars."""
        self.console.print(escape(line), soft_wrap=True)

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "began":
            self._began[event.job] = time.monotonic()
            name = escape(self._cells[event.job].label)
            self._tasks[event.job] = self._bars.add_task(name, total=self._epochs, note="starting")
        elif event.kind == "news":
            self._news(event.job, event.content)
        else:
            self._end(event)

    def _news(self, job: int, news: Any) -> None:
        epoch, note = news
        self._share[job] = 0.9 * epoch / max(1, self._epochs)  # the rest is the judgement
        self._bars.update(self._tasks[job], completed=epoch, note=escape(note))
        self._bars.update(self._overall, note=self._remaining())

    def _end(self, event: Event) -> None:
        self._finished += 1
        self._share.pop(event.job, None)
        self._bars.remove_task(self._tasks.pop(event.job))
        self._bars.update(self._overall, completed=self._finished, note=self._remaining())
        took = seconds(time.monotonic() - self._began[event.job])
        said = f"failed: {event.content}" if event.kind == "failed" else str(event.content)
        self.say(f"[{self._finished}/{self._total}] {self._cells[event.job].label}: {said} ({took})")

    def _remaining(self) -> str:
        """Time left, from the share of this call's work that is done."""
        before = self._total - len(self._cells)
        done = self._finished - before + sum(self._share.values())
        if done < 0.05:
            return ""
        left = (time.monotonic() - self._start) * (len(self._cells) - done) / done
        return f"about {seconds(max(0.0, left))} left"
