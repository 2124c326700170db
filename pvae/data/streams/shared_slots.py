"""Reused memory into which worker processes write batches; the training process copies the batches from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["SharedSlots"]

#: Tensors start at multiples of this number of bytes, like PyTorch's tensors on the CPU.
_ALIGNMENT = 64


@dataclass(frozen=True)
class _InSlot:
    """The place of a tensor in a slot: its first byte, its shape and its type."""

    start: int
    shape: torch.Size
    dtype: torch.dtype

    def view(self, slot: Tensor) -> Tensor:
        """Return the tensor in a slot, which is a view of shape (bytes,)."""
        size = self.shape.numel() * self.dtype.itemsize
        return slot[self.start : self.start + size].view(self.dtype).view(self.shape)


class SharedSlots:
    """Slots of shared memory, each for the batches of one message of a worker.

    A tensor that a worker sends in the usual way gets a new segment of shared memory. For a small batch, this takes
    longer than reading the batch, because the pages are new, and the file descriptor goes through a socket and a thread
    of the worker. The slots are one segment without a name, which is freed with the last process that uses it.

    Args:
        count: the number of slots.
        size: the bytes of a slot.

    Raises:
        RuntimeError: if the system has not enough shared memory.
    """

    def __init__(self, count: int, size: int) -> None:
        self._memory = torch.empty(count, _aligned(size), dtype=torch.uint8).share_memory_()

    @classmethod
    def where_they_fit(cls, count: int, size: int) -> SharedSlots | None:
        """Return slots; None if they would take more than half of the free shared memory, which a container may limit.

        Args:
            count: the number of slots.
            size: the bytes of a slot.
        """
        free = _free_shared_bytes()
        if free is not None and 2 * count * size > free:
            return None
        try:
            return cls(count, size)
        except RuntimeError:
            return None

    def __len__(self) -> int:
        return len(self._memory)

    def put(self, slot: int, content: Any, start: int) -> tuple[Any, int]:
        """Write the tensors of a batch into a slot.

        Tensors in dictionaries, lists and tuples are found. Those that are not dense and contiguous on the CPU, that
        require a gradient or are of a subclass, and tensors for which the slot has no room, are not moved.

        Args:
            slot: the number of the slot.
            content: the batch.
            start: the first free byte of the slot.

        Returns:
            The batch with places instead of these tensors, and the first free byte after them.
        """
        memory = self._memory[slot]

        def place(value: Any) -> Any:
            nonlocal start
            if not _can_be_copied(value) or start + value.nbytes > len(memory):
                return value
            result = _InSlot(start, value.shape, value.dtype)
            result.view(memory).copy_(value)
            start += _aligned(value.nbytes)
            return result

        return _mapped(content, place), start

    def copy(self, slot: int, content: Any, *, pinned: bool) -> Any:
        """Return a batch with copies of its tensors in a slot.

        Args:
            slot: the number of the slot.
            content: a batch from `put`.
            pinned: whether the copies are in pinned memory, for a copy to CUDA.
        """
        memory = self._memory[slot]

        def copied(value: Any) -> Any:
            if not isinstance(value, _InSlot):
                return value
            view = value.view(memory)
            return torch.empty_like(view, pin_memory=True).copy_(view) if pinned else view.clone()

        return _mapped(content, copied)


def _aligned(size: int) -> int:
    """Return the next multiple of the alignment of tensors."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _free_shared_bytes() -> int | None:
    """Return the bytes of shared memory that are free on Linux; None elsewhere."""
    try:
        files = os.statvfs("/dev/shm")
    except (AttributeError, OSError):
        return None
    return files.f_bavail * files.f_frsize


def _can_be_copied(value: Any) -> bool:
    """Return whether a value is a tensor that can be replaced by a copy in other memory."""
    return (
        type(value) is Tensor
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.requires_grad or value.is_quantized or value.is_nested)
        and value.is_contiguous()
        and value.numel() > 0
    )


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value with the elements of its dictionaries, lists and tuples changed."""
    kind = type(value)  # a subclass, such as a packed sequence, may refuse other elements
    if kind is dict:
        return {key: _mapped(each, change) for key, each in value.items()}
    if kind is list or kind is tuple:
        return kind(_mapped(each, change) for each in value)
    return change(value)
