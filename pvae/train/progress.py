"""Displays of the progress of a training: a bar on a terminal and in a notebook, one line per epoch elsewhere."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from pvae.logs import is_hidden, is_recorded, say

__all__ = ["SECONDS_BETWEEN_LINES", "BarDisplay", "LineDisplay", "NotebookDisplay", "TrainingDisplay", "make_display"]

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_DRAWINGS = 0.25
#: The time between two lines within an epoch, in seconds, of a display without a bar.
SECONDS_BETWEEN_LINES = 60.0


class TrainingDisplay:
    """A display that shows nothing, and the base class of the other displays."""

    def start(self, epoch: int, epochs: int, steps: int | None) -> None:
        """Start the display.

        Args:
            epoch: the number of completed epochs.
            epochs: the number of epochs in all.
            steps: the number of steps in an epoch; None if it is not known.
        """

    def show_step(self, epoch: int, step: int, loss: Callable[[], float]) -> None:
        """Show a completed step.

        Args:
            epoch: the number of completed epochs.
            step: the number of completed steps of the current epoch.
            loss: returns the loss of the step, in nats per datum; each call may wait for the device.
        """

    def show_epoch(self, record: Mapping[str, Any]) -> None:
        """Show the record of a completed epoch."""

    def note(self, text: str) -> None:
        """Show a line of text."""

    def close(self) -> None:
        """End the display."""


class LineDisplay(TrainingDisplay):
    """Shows one line per epoch, and one each minute within an epoch."""

    def start(self, epoch: int, epochs: int, steps: int | None) -> None:
        """Remember the number of epochs and of steps."""
        self._epochs, self._steps = epochs, steps
        self._time_of_line = time.monotonic()

    def show_step(self, epoch: int, step: int, loss: Callable[[], float]) -> None:
        """Show the step if the last line is a minute old."""
        now = time.monotonic()
        if now - self._time_of_line >= SECONDS_BETWEEN_LINES:
            self._time_of_line = now
            of_steps = "" if self._steps is None else f" of {self._steps}"
            say(_LOG, f"epoch {epoch + 1}/{self._epochs}  step {step}{of_steps}  loss {loss():.4f}")

    def show_epoch(self, record: Mapping[str, Any]) -> None:
        """Show the numbers of the epoch."""
        self._time_of_line = time.monotonic()
        say(_LOG, f"epoch {record['epoch']}/{self._epochs}  {summary(record)}")

    def note(self, text: str) -> None:
        """Show the line."""
        say(_LOG, text)


class BarDisplay(TrainingDisplay):
    """Shows a live bar of `rich`, drawn a few times a second, because drawing takes longer than a small step."""

    _bar: Any = None

    def start(self, epoch: int, epochs: int, steps: int | None) -> None:
        """Show the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._epochs, self._steps = epochs, steps or 0
        self._time_of_drawing = time.monotonic()
        self._bound_text = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        total = None if steps is None else epochs * steps
        self._task = self._bar.add_task("epoch", total=total, completed=epoch * self._steps, numbers="")
        self._bar.start()

    def show_step(self, epoch: int, step: int, loss: Callable[[], float]) -> None:
        """Draw the bar again if the last drawing is old enough."""
        now = time.monotonic()
        if now - self._time_of_drawing > _SECONDS_BETWEEN_DRAWINGS:
            self._time_of_drawing = now
            self._bar.update(
                self._task,
                completed=epoch * self._steps + step,
                description=f"epoch {epoch + 1}/{self._epochs}",
                numbers=f"loss {loss():.4g} {self._bound_text}",
                refresh=True,
            )

    def show_epoch(self, record: Mapping[str, Any]) -> None:
        """Move the bar to the end of the epoch; the next drawings show its validation bound."""
        if record.get("validation_bound") is not None:
            self._bound_text = f"bound {record['validation_bound']:.4g}"
        epoch = record["epoch"]
        loss = "" if record.get("loss") is None else f"loss {record['loss']:.4g} "
        self._bar.update(
            self._task,
            completed=epoch * self._steps,
            description=f"epoch {epoch}/{self._epochs}",
            numbers=f"{loss}{self._bound_text}",
        )

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is None:
            say(_LOG, text)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Stop the bar; its last state remains visible."""
        self._bar.stop()  # stopping draws the bar once more


class NotebookDisplay(TrainingDisplay):
    """Shows a bar of ``tqdm.auto`` in a notebook: a widget if ``ipywidgets`` is installed, else a bar of text."""

    _bar: Any = None

    def start(self, epoch: int, epochs: int, steps: int | None) -> None:
        """Show the bar."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tqdm warns that widgets are experimental, or not installed
            from tqdm.auto import tqdm

            self._bar = tqdm(
                total=epochs, initial=epoch, unit="epoch", mininterval=_SECONDS_BETWEEN_DRAWINGS, file=sys.stderr
            )

    def show_epoch(self, record: Mapping[str, Any]) -> None:
        """Move the bar to the epoch, with its numbers."""
        self._bar.set_postfix_str(summary(record), refresh=False)
        self._bar.update(record["epoch"] - self._bar.n)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        if self._bar is None:
            say(_LOG, text)
        else:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Stop the bar; its last state remains visible."""
        self._bar.close()


def summary(record: Mapping[str, Any]) -> str:
    """Return the numbers of an epoch as text, in nats per datum."""
    loss = record.get("loss")
    parts = [f"loss {loss:.4f}" if loss is not None else "loss not finite"]
    if record.get("validation_bound") is not None:
        error = record.get("validation_error")
        parts.append(f"validation bound {record['validation_bound']:.4f}" + (f" ± {error:.4f}" if error else ""))
    return "  ".join([*parts, f"{record['seconds']:.1f} s"])


def make_display(progress: bool | None) -> TrainingDisplay:
    """Return the display of a training.

    Args:
        progress: None for a bar on a terminal and in a notebook, and lines elsewhere or if logging is configured; True
            for a bar; False for no display.
    """
    if progress is False or (progress is None and is_hidden()):
        return TrainingDisplay()
    if progress is None and is_recorded(_LOG):
        return LineDisplay()
    if _is_notebook():
        return NotebookDisplay()
    return BarDisplay() if progress or sys.stderr.isatty() else LineDisplay()


def _is_notebook() -> bool:
    """Return whether the code runs in the kernel of a notebook."""
    ipython = sys.modules.get("IPython")  # the kernel of a notebook has imported it
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config
