"""What a person sees while a training runs: on standard error, a bar on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Bar", "Lines", "Silent", "make_progress"]

_SECONDS = 0.25


class Silent:
    """Says nothing."""

    def start(self, epoch: int, epochs: int, steps: int) -> None:
        """Take note of the number of epochs done and to do, and of steps in an epoch."""

    def tick(self, epoch: int, step: int, loss: Callable[[], float]) -> None:
        """Take note of a step."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Take note of an epoch's numbers."""

    def note(self, text: str) -> None:
        """Say a line."""

    def close(self) -> None:
        """End the display."""


class Lines(Silent):
    """One line per epoch."""

    def start(self, epoch: int, epochs: int, steps: int) -> None:
        """Remember how many epochs there are."""
        self._epochs = epochs

    def record(self, record: Mapping[str, Any]) -> None:
        """Print the epoch's numbers."""
        print(f"epoch {record['epoch']}/{self._epochs}  {summary(record)}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Print the line."""
        print(text, file=sys.stderr, flush=True)


class Bar(Silent):
    """A live bar of `rich`, redrawn a few times a second: drawing costs more than a small step."""

    _bar: Any = None

    def start(self, epoch: int, epochs: int, steps: int) -> None:
        """Show the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._epochs, self._steps, self._drawn = epochs, steps, time.monotonic()
        words = TextColumn("{task.description}")
        columns = (words, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[said]}"))
        self._bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False)
        self._task = self._bar.add_task("epoch", total=epochs * steps, completed=epoch * steps, said="")
        self._said = ""
        self._bar.start()

    def tick(self, epoch: int, step: int, loss: Callable[[], float]) -> None:
        """Move the bar, if it is time."""
        now = time.monotonic()
        if now - self._drawn > _SECONDS:
            self._drawn = now
            said = f"loss {loss():.4g} {self._said}"
            self._bar.update(
                self._task,
                completed=epoch * self._steps + step,
                description=f"epoch {epoch + 1}/{self._epochs}",
                said=said,
                refresh=True,
            )

    def record(self, record: Mapping[str, Any]) -> None:
        """Keep the validation bound in sight."""
        if record.get("validation_bound") is not None:
            self._said = f"bound {record['validation_bound']:.4g}"

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the finished bar."""
        self._bar.stop()


def summary(record: Mapping[str, Any]) -> str:
    """Return an epoch's numbers in words, in nats per datum."""
    loss = record.get("loss")
    said = [f"loss {loss:.4f}" if loss is not None else "loss not finite"]
    if record.get("validation_bound") is not None:
        error = record.get("validation_error")
        said.append(f"validation bound {record['validation_bound']:.4f}" + (f" ± {error:.4f}" if error else ""))
    return "  ".join([*said, f"{record['seconds']:.1f} s"])


def make_progress(wanted: bool | None) -> Silent:
    """Return the display: by default a bar on a terminal, else lines; False for none, True for the bar anyway."""
    if wanted is False:
        return Silent()
    return Bar() if wanted or sys.stderr.isatty() else Lines()
