"""SIGINT and SIGTERM, answered between two steps so that a checkpoint can be written first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupts", "interrupts"]


class Interrupts:
    """Whether the process was asked to stop; `pending` holds the signal's number, 0 for none."""

    def __init__(self) -> None:
        self.pending = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal; a second SIGINT stops at once."""
        if self.pending and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.pending = number

    def stop(self) -> None:
        """Raise what the signal asks for: KeyboardInterrupt, or SystemExit with code 143."""
        if self.pending == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.pending)


@contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Answer SIGINT and SIGTERM gently inside the block. Only a main thread may; elsewhere nothing changes."""
    found = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = {number: signal.signal(number, found) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
