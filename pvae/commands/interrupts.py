"""SIGINT on the command line: the first one ends a command in order, the second one ends it within two seconds."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["two_interrupts_end"]

_SECONDS_TO_END = 1.5  # after the second signal
_SECONDS_TO_NOTICE = 1.0  # after the first signal, until a message says how to stop immediately
_NOTICE = (
    b"pvae: stopping in order, after this step or evaluation. Press Ctrl-C once more to stop within two seconds; "
    b"what was written before is kept.\n"
)
_END = b"pvae: error: interrupted twice; stopped at once. The checkpoints that were written before are kept.\n"


@contextmanager
def two_interrupts_end(code: int) -> Iterator[None]:
    """Run a block that a second SIGINT ends, even if code in it catches every exception or does not return.

    Python calls the handler of a signal only between two instructions of the main thread. A thread of its own, which
    the operating system wakes, therefore ends the process if it still runs some time after the second signal.

    Args:
        code: the exit code of the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(receiver, code), daemon=True, name="pvae-interrupts").start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        sender.close()


def _watch(receiver: socket.socket, code: int) -> None:
    """Count signals until the other end is closed; end the process after the second one."""
    with receiver:
        if not _wait_for_interrupt(receiver, None):
            return
        second = _wait_for_interrupt(receiver, _SECONDS_TO_NOTICE)
        if second is None:
            os.write(2, _NOTICE)
            second = _wait_for_interrupt(receiver, None)
        if second and _is_open(receiver, _SECONDS_TO_END):
            os.write(2, _END)
            os._exit(code)


def _wait_for_interrupt(receiver: socket.socket, seconds: float | None) -> bool | None:
    """Return True after SIGINT, False if the other end is closed, and None if nothing comes in time."""
    receiver.settimeout(seconds)
    while True:
        try:
            numbers = receiver.recv(1)
        except TimeoutError:
            return None
        if not numbers:
            return False
        if numbers[0] == signal.SIGINT:
            return True


def _is_open(receiver: socket.socket, seconds: float) -> bool:
    """Wait some time; return whether the other end is still open then."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if _wait_for_interrupt(receiver, left) is False:
            return False
    return True
