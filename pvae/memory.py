"""The memory that is free, for estimates before an allocation."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["format_bytes", "free_bytes"]

_MEMORY_OF_LINUX = Path("/proc/meminfo")


def free_bytes(device: torch.device) -> int | None:
    """Return the number of bytes that are free on a device; None if it is not known.

    Args:
        device: a CPU or CUDA device. On a CPU it is the memory that Linux can give without swapping.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not _MEMORY_OF_LINUX.exists():
        return None
    for line in _MEMORY_OF_LINUX.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def format_bytes(count: float) -> str:
    """Return a number of bytes as text, such as "3.2 GB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"
