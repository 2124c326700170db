"""The free memory of a device, the memory that a block needs, and an error before an allocation that is too large."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pvae.errors import InputError

__all__ = [
    "MemoryLimit",
    "PeakMemory",
    "format_bytes",
    "free_bytes",
    "is_view_or_in_place",
    "keep_freed_memory",
    "memory_for_parameters",
    "require_memory",
]

#: Bytes of a block just below 32 MiB, the largest block that changes glibc's threshold for freed memory.
_LEARNED_BYTES = 33_200_000

#: Files with the limit of a container, its use and the part of the use that can be freed: cgroup version 2, then 1.
_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "inactive_file"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def free_bytes(device: torch.device | str = "cpu") -> int | None:
    """Return the number of bytes that can still be allocated; None if it is not known.

    On the CPU it is the memory that the operating system counts as available, or what is left of the limit of the
    container, if that is less.

    Args:
        device: the device.
    """
    device = torch.device(device)
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    if device.type != "cpu":
        return None
    known = [free for free in (_available(), *(_left_in_container(*files) for files in _CGROUPS)) if free is not None]
    return min(known, default=None)


def keep_freed_memory() -> None:
    """Let the C library keep up to 64 MiB of the memory that tensors free, for the tensors after them.

    By default, glibc returns the memory of tensors of some megabytes to the system, and takes it again for the next
    tensor. The system then clears each page, which can take as long as the computation. glibc keeps more memory once
    a large block was freed; this function frees one that was never written, so that it takes no memory. Other C
    libraries, and glibc with settings of its own in the environment (``MALLOC_TRIM_THRESHOLD_``), do not change.

    Source: the manual page mallopt(3) of Linux, on the dynamic M_MMAP_THRESHOLD.
    """
    np.empty(_LEARNED_BYTES, dtype=np.uint8)  # not by torch, because a measurement of its memory would count this


def format_bytes(count: float) -> str:
    """Return a number of bytes as text, such as "3.2 GB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"


def _available() -> int | None:
    """Return the memory that the operating system counts as available, in bytes."""
    fields = _fields("/proc/meminfo")
    if "MemAvailable" in fields:
        return 1024 * fields["MemAvailable"]
    try:
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return None


def _left_in_container(limit: str, usage: str, freeable: str) -> int | None:
    """Return the number of bytes that a container may still allocate; None without a limit."""
    try:
        left = int(Path(limit).read_text()) - int(Path(usage).read_text())  # "max" is not a number
    except (OSError, ValueError):
        return None
    return left + _fields(str(Path(usage).with_name("memory.stat"))).get(freeable, 0)


def _fields(path: str) -> dict[str, int]:
    """Return the numbers of a file of lines such as ``MemAvailable:  1024 kB``, by name."""
    try:
        rows = [line.replace(":", " ").split() for line in Path(path).read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def require_memory(needed: float, device: torch.device | str, task: str, advice: str) -> None:
    """Refuse a task that needs more memory than is free.

    Args:
        needed: the bytes that the task needs.
        device: the device.
        task: the task, for the error.
        advice: what to lower.

    Raises:
        InputError: if the task needs more than is free.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise InputError(
            f"{task} needs about {format_bytes(needed)} of memory on {device}, and {format_bytes(free)} are free. "
            f"{advice}"
        )


def is_view_or_in_place(func: Any) -> bool:
    """Return whether an operation returns the memory of its operands.

    Args:
        func: an operation of torch, as a mode of torch's dispatcher gets it.
    """
    return isinstance(func, torch._ops.OpOverload) and any(r.alias_info is not None for r in func._schema.returns)


class PeakMemory(TorchDispatchMode):
    """Measures the peak memory of the tensors that a block makes.

    Temporary memory inside an operation is not counted.

    Attributes:
        bytes: the most bytes that were held at the same time.
        held: the bytes that are held now.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.held = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if is_view_or_in_place(func):
            return outputs
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor) and output.layout == torch.strided and not output.is_meta:
                self._add(output.untyped_storage())
        return outputs

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.held += size
        self.bytes = max(self.bytes, self.held)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


class MemoryLimit(PeakMemory):
    """Raises an error before a block allocates a tensor that would exceed a memory limit.

    Tensors that are computed from other tensors are counted after their allocation.

    Args:
        most: the bytes that the tensors of the block may hold at the same time.
        error: returns the error for a number of bytes that is too large.
        most_tensors: the number of tensors that may exist at the same time; the error gets their bytes.

    Raises:
        InputError: the error, inside the block.
    """

    def __init__(self, most: float, error: Callable[[float], InputError], most_tensors: float = math.inf) -> None:
        super().__init__()
        self._most, self._error, self._most_tensors = most, error, most_tensors

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            torch.device((kwargs or {}).get("device") or "meta").type != "meta"
        ):  # the operation makes a tensor without tensor arguments
            size = _planned_size(func, args, kwargs)
            if self.held + size > self._most or len(self._known) >= self._most_tensors:
                raise self._error(self.held + size)
        return super().__torch_dispatch__(func, types, args, kwargs)


def _planned_size(func: Any, args: Any, kwargs: Any) -> int:
    """Return the bytes of the tensors that an operation will make; 0 if they cannot be known without the operation."""
    without_generator = {"generator": None} if "generator" in kwargs else {}
    planned_options = {**kwargs, "device": torch.device("meta"), "pin_memory": False, **without_generator}
    try:
        planned = func(*args, **planned_options)
    except (NotImplementedError, RuntimeError, TypeError):
        return 0
    return sum(leaf.nbytes for leaf in tree_leaves(planned) if isinstance(leaf, Tensor))


def memory_for_parameters(label: str) -> AbstractContextManager[Any]:
    """Return a block that refuses tensors for which there is no memory, with an error that names the model.

    Args:
        label: the name of the model that the block makes.
    """
    free = free_bytes()
    if free is None:
        return nullcontext()

    def error(needed: float) -> InputError:
        return InputError(
            f"{label} needs {format_bytes(needed)} of memory or more for its parameters, and {format_bytes(free)} are "
            "free. Make its layers smaller."
        )

    return MemoryLimit(free, error)
