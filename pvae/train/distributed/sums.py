"""Sums of the numbers of a step over the processes: by one all-reduce, or in memory that the processes share."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pvae.train.distributed.meeting import Meeting
from pvae.train.distributed.training_group import TrainingGroup

__all__ = ["AllReduce", "SharedMemory", "Sums", "make_sums"]

#: The folder of files that are memory, on Linux.
_MEMORY = Path("/dev/shm")
#: Up to this number of processes, each one adds the numbers of all faster than an all-reduce over sockets.
_MOST_PROCESSES = 4
#: The most bytes of shared memory, and the part of the free memory that may be used.
_MOST_BYTES = 256 << 20
_PART = 0.5
#: The last byte of a new file.
_MARK = 1


class Sums(ABC):
    """Memory for the values of this process and for their sums, used in each step."""

    @property
    @abstractmethod
    def own(self) -> Tensor:
        """Where this process writes its values of the next step, shape (elements,)."""

    @property
    @abstractmethod
    def total(self) -> Tensor:
        """Where `finish` leaves the result, shape (elements,)."""

    @abstractmethod
    def exchange(self, flags: Sequence[float]) -> list[float]:
        """Return the sums of a few numbers over the processes; all call it, after they have written their values.

        Args:
            flags: the numbers of this process.

        Raises:
            LostProcessError: if another process has ended, or does not answer in time.
        """

    @abstractmethod
    def finish(self, divisor: float) -> None:
        """Write the sum of the values of all processes, divided by a number, to `total`; without communication.

        Args:
            divisor: the number, which is the same in all processes.
        """


class AllReduce(Sums):
    """Sums by one all-reduce of values and flags, on any device.

    Args:
        group: the processes.
        elements: the number of values.
        flags: the number of flags.
        dtype: of values and flags.
        device: of values and flags.
    """

    def __init__(self, group: TrainingGroup, elements: int, flags: int, dtype: torch.dtype, device: torch.device):
        self._group = group
        self._flat = torch.zeros(elements + flags, dtype=dtype, device=device)
        self._values, self._flags = self._flat[:elements], self._flat[elements:]

    @property
    def own(self) -> Tensor:
        """Where this process writes its values, shape (elements,)."""
        return self._values

    @property
    def total(self) -> Tensor:
        """The same memory, shape (elements,)."""
        return self._values

    def exchange(self, flags: Sequence[float]) -> list[float]:
        """Sum values and flags; return the latter."""
        self._flags.copy_(torch.tensor(flags, dtype=self._flat.dtype))
        self._group.add_to_sum(self._flat)
        sums: list[float] = self._flags.tolist()
        return sums

    def finish(self, divisor: float) -> None:
        """Divide the sums."""
        self._values.div_(divisor)


class SharedMemory(Sums):
    """Sums in memory that the processes of one machine share; nothing is sent, so a step takes less time.

    Each process has two parts of the memory, which it uses in turn: it writes to one of them while other processes may
    still read the other one, of the step before. All processes add the parts in the same order, so the sums have the
    same bits.

    Args:
        parts: the parts, shape (2, processes, elements), in memory that all processes share.
        rank: the number of this process.
        meeting: waits for the other processes, and adds the flags.
    """

    def __init__(self, parts: Tensor, rank: int, meeting: Meeting) -> None:
        self._parts, self._rank, self._meeting = parts, rank, meeting
        self._total = torch.empty_like(parts[0, 0])
        self._turn = 0

    @property
    def own(self) -> Tensor:
        """Where this process writes its values of the next step, shape (elements,)."""
        return self._parts[self._turn, self._rank]

    @property
    def total(self) -> Tensor:
        """Memory of this process alone, shape (elements,)."""
        return self._total

    def exchange(self, flags: Sequence[float]) -> list[float]:
        """Return the sums of the flags; all processes have then written their values."""
        return self._meeting.add(flags)

    def finish(self, divisor: float) -> None:
        """Add the values of all processes."""
        first, *others = self._parts[self._turn]
        torch.mul(first, 1 / divisor, out=self._total)
        for other in others:
            self._total.add_(other, alpha=1 / divisor)
        self._turn = 1 - self._turn


def make_sums(group: TrainingGroup, elements: int, flags: int, dtype: torch.dtype, device: torch.device) -> Sums:
    """Return the memory for sums; all processes call this function, and get objects of the same kind.

    The memory is shared if there are few processes on the CPUs of one machine, and the system has enough of it.

    Args:
        group: the processes.
        elements: the number of values.
        flags: the number of flags.
        dtype: of values and flags.
        device: of values and flags.

    Raises:
        LostProcessError: if another process has ended, or does not answer in time.
    """
    if device.type == "cpu" and group.device.type == "cpu" and group.count <= _MOST_PROCESSES:
        parts = _shared_memory(group, (2, group.count, elements), dtype)
        numbers = _shared_memory(group, (2, group.count, 1 + flags), torch.float64)
        if parts is not None and numbers is not None:
            own_pid = torch.zeros(group.count, dtype=torch.float64)
            own_pid[group.rank] = os.getpid()
            if group.is_first:
                numbers.zero_()
            pids = group.sum(own_pid).long().tolist()  # afterwards the numbers are 0 for all processes
            return SharedMemory(parts, group.rank, Meeting(numbers, group.rank, pids))
    return AllReduce(group, elements, flags, dtype, device)


def _shared_memory(group: TrainingGroup, shape: Sequence[int], dtype: torch.dtype) -> Tensor | None:
    """Return memory that all processes share; None in all of them if one of them cannot open it."""
    count = torch.Size(shape).numel()
    path, namespace = group.from_first(lambda: [_make_file(count * dtype.itemsize), _pid_namespace()])
    if not path:
        return None
    try:
        memory = _open_file(path, count, dtype)
        # the mark shows that the file is the one of the first process
        is_same = memory is not None and int(memory.view(torch.uint8)[-1]) == _MARK
        same = group.sum(torch.tensor([float(is_same and _pid_namespace() == namespace)]))
    finally:
        if group.is_first:
            Path(path).unlink(missing_ok=True)  # the memory stays until the last process ends
    return None if memory is None or float(same) < group.count else memory.view(*shape)


def _pid_namespace() -> str:
    """Return what identifies the processes of this machine or container that see each other; "" if it is not known."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _make_file(size: int) -> str:
    """Return the path of a new file in memory, with a mark in its last byte.

    Returns:
        "" if there is not enough memory, no such folder, or another kind of processor or system.
    """
    try:
        is_small = 0 < size <= min(_MOST_BYTES, _PART * shutil.disk_usage(_MEMORY).free)
        if not is_small or platform.machine() != "x86_64" or not _pid_namespace():
            return ""
        handle, path = tempfile.mkstemp(prefix="pvae-", dir=_MEMORY)
    except OSError:
        return ""
    try:
        # reserves the memory; without it, a write could end the process later
        os.posix_fallocate(handle, 0, size)
        os.pwrite(handle, bytes([_MARK]), size - 1)
    except OSError:
        Path(path).unlink(missing_ok=True)
        return ""
    finally:
        os.close(handle)
    return path


def _open_file(path: str, count: int, dtype: torch.dtype) -> Tensor | None:
    """Return the memory of a file, shape (count,); None if this process does not see the file, as in a container."""
    if not os.path.exists(path):
        return None
    try:
        return torch.from_file(path, shared=True, size=count, dtype=dtype)
    except (OSError, RuntimeError):
        return None
