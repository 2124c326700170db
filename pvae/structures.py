"""Number of data and tensors of arguments that are not plain tensors, such as packed sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from pvae.errors import InputError

__all__ = ["count_of", "is_structure", "map_tensors", "moved", "require_dense", "tensors_of"]


def is_structure(value: Any) -> bool:
    """Return whether a value is not a tensor with the data as its first dimension.

    Args:
        value: a field of a batch, or an argument of a program.
    """
    return not isinstance(value, Tensor) or value.is_nested or value.dim() == 0


def require_dense(name: str, value: Any) -> None:
    """Raise InputError for a tensor that is sparse, quantised or nested; other values pass.

    Args:
        name: the name of the field, for the message.
        value: a tensor, or any other value.
    """
    if not isinstance(value, Tensor):
        return
    kind = "nested" if value.is_nested else "quantised" if value.is_quantized else ""
    if kind or value.layout != torch.strided:
        advice = {
            "nested": "Pad the data and pass a mask, or use a loader with a collate function",
            "quantised": "Use dequantize()",
        }.get(kind, "Use to_dense()")
        raise InputError(f"{name} needs a dense tensor; got a {kind or 'sparse'} one. {advice}.")


def count_of(value: Any) -> int | None:
    """Return the number of data in a value; None if it is not known.

    The number is the length of the first dimension of a tensor, the number of sequences of a packed sequence, and the
    length of a list or tuple. It is not known for mappings and other objects.

    Args:
        value: a field of a batch, or an argument of a program.
    """
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    if isinstance(value, Tensor):
        return value.size(0) if value.dim() else None
    is_plain = isinstance(value, list) or (isinstance(value, tuple) and not hasattr(value, "_fields"))
    return len(value) if is_plain else None


def tensors_of(value: Any) -> list[Tensor]:
    """Return the tensors in lists, tuples, mappings and packed sequences; tensors in other objects are not found.

    Args:
        value: a field of a batch.
    """
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with its tensors of real numbers changed; the lengths of a packed sequence stay.

    Args:
        value: a field of a batch.
        change: a function of a tensor that keeps its shape.
    """
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, value)


def moved(value: Any, device: torch.device | str, *, non_blocking: bool = False) -> Any:
    """Return a value on a device, by its own method ``to`` if it has one; the lengths of a packed sequence stay.

    Args:
        value: a field of a batch.
        device: the device.
        non_blocking: whether the copy of tensors in pinned memory need not be complete.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, Mapping):
        return {key: moved(each, device, non_blocking=non_blocking) for key, each in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(moved(each, device, non_blocking=non_blocking) for each in value)
    return value.to(device) if callable(getattr(value, "to", None)) else value
