"""Delay SIGINT and SIGTERM until a step has ended, so that a checkpoint can be written first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupts", "catch_interrupts"]


class Interrupts:
    """Remembers the last signal that asked the process to stop.

    Attributes:
        pending: the number of the signal; 0 if there was none.
    """

    def __init__(self) -> None:
        self.pending = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; a second SIGINT raises KeyboardInterrupt immediately."""
        if self.pending and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.pending = number

    def stop(self) -> None:
        """End the process as the signal asks.

        Raises:
            KeyboardInterrupt: after SIGINT.
            SystemExit: after SIGTERM, with code 143.
        """
        if self.pending == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.pending)


@contextmanager
def catch_interrupts() -> Iterator[Interrupts]:
    """Catch SIGINT and SIGTERM inside a block.

    Only the main thread can catch them; in other threads nothing changes.
    """
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    before = {number: signal.signal(number, interrupts) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
