"""`Meeting`: processes of one machine wait for each other, and add a few numbers, in memory that they share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pvae.process_group import lost_process

__all__ = ["Meeting"]

#: Looks at the numbers of the others without a pause: about 2 milliseconds. Steps of equal work end within this time.
_LOOKS = 1000
#: Seconds between later looks, between looks for ended processes, and until the others are given up.
_PAUSE, _BETWEEN_CHECKS, _TIMEOUT = 1e-4, 0.5, 600.0


class Meeting:
    """The numbers of the processes in shared memory. An all-reduce over sockets takes milliseconds after other work.

    There are two sets of numbers, which are used in turn: a process may write to one while others still read the other.
    A process writes its own numbers first, and then the number of the meeting. x86-64 processors keep this order.

    Args:
        numbers: zeros in shared memory, shape (2, processes, 1 + flags), float64.
        rank: the number of this process.
        pids: the process identifiers of all processes.
    """

    def __init__(self, numbers: Tensor, rank: int, pids: Sequence[int]) -> None:
        self._numbers, self._rank, self._pids = numbers.numpy(), rank, pids
        self._meetings = 0

    def add(self, own: Sequence[float]) -> list[float]:
        """Return the sums of the numbers of all processes, after all of them have called this method.

        Args:
            own: the numbers of this process.

        Raises:
            LostProcessError: if another process has ended, or does not come in time.
        """
        numbers = self._numbers[self._meetings % 2]
        self._meetings += 1
        numbers[self._rank, 1:] = own
        numbers[self._rank, 0] = self._meetings
        for _ in range(_LOOKS):
            if numbers[:, 0].min() >= self._meetings:
                break
        else:
            self._wait(numbers[:, 0])
        sums: list[float] = numbers[:, 1:].sum(0).tolist()
        return sums

    def _wait(self, places: Tensor) -> None:
        """Wait until all processes have written the number of this meeting, and look for processes that have ended."""
        begun = next_check = time.monotonic()
        while places.min() < self._meetings:
            time.sleep(_PAUSE)
            now = time.monotonic()
            if now >= next_check:
                next_check = now + _BETWEEN_CHECKS
                ended = [rank for rank, pid in enumerate(self._pids) if not _is_running(pid)]
                # a process that has ended may have come before
                if any(places[rank] < self._meetings for rank in ended):
                    raise lost_process(f"process {ended[0]} has ended")
            if now - begun > _TIMEOUT:
                raise lost_process(f"no answer for {_TIMEOUT:.0f} seconds")


def _is_running(pid: int) -> bool:
    """Return whether a process runs; a process that has ended may still be listed, with the state Z or X."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in ("Z", "X")
