"""`MemoryGrowth`: the memory of a run of any size, from runs of small sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pvae.memory import free_bytes
from pvae.programs.memory_limit import FreeMemoryLimit, describe_need

__all__ = ["MemoryGrowth"]

#: A size is large enough if it needs this many times the memory of its half: parameters then matter little.
_GROWN = 1.5

#: The share of the free memory that a small run may need.
_SHARE = 0.25


@dataclass(frozen=True)
class MemoryGrowth:
    """The memory of a run, which grows linearly with its size from a measured one.

    Attributes:
        size: the largest measured size.
        bytes: its memory, in bytes.
        rate: the additional memory for each unit of the size, in bytes.
        device: the device of the runs.
        is_lower_bound: whether the run was stopped because it needs more memory.
    """

    size: int
    bytes: int
    rate: float
    device: torch.device | str
    is_lower_bound: bool = False

    @classmethod
    def measure(
        cls, run: Callable[[int], Any], first: int, most: int, device: torch.device | str
    ) -> MemoryGrowth | None:
        """Measure runs of a small size, of twice and four times the size, and so on, until the memory clearly grows.

        Args:
            run: a function of the size.
            first: the first size.
            most: the largest size that may be tried.
            device: the device of the runs.

        Returns:
            The growth, or a lower bound if a small run needs a quarter of the free memory; None if a run fails.
        """
        size, known = first, 0
        while size <= most:
            limit = FreeMemoryLimit(device, _SHARE)
            try:
                with limit:
                    run(size)
            except Exception:  # a program may raise any error
                if limit.needed is None:
                    return None
            if limit.needed is not None:
                return cls(size, limit.needed, limit.needed / size, device, is_lower_bound=True)
            if known and (limit.bytes >= _GROWN * known or 2 * size > most):
                return cls(size, limit.bytes, 2 * (limit.bytes - known) / size, device)
            size, known = 2 * size, limit.bytes
        return None

    def needed(self, size: int) -> float:
        """Return the memory of a run of a size, in bytes."""
        return self.bytes + self.rate * (size - self.size)

    def largest_size(self, share: float) -> int:
        """Return the largest size of a run that needs no more than a share of the free memory; 0 if there is none."""
        available = share * (free_bytes(self.device) or 0)
        if self.rate <= 0:
            return self.size if self.bytes <= available else 0
        return max(0, int(self.size + (available - self.bytes) / self.rate))

    def describe(self, size: int, free: float) -> str:
        """Return a text with the memory that a run of a size needs, and the free memory.

        Args:
            size: the size.
            free: the free bytes.
        """
        return describe_need(self.needed(size), self.device, free, is_lower_bound=self.is_lower_bound)
