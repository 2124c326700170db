"""`StructuredBatch`: a batch with fields that are not plain tensors, made by a collate function of the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch, Index, check_field_name
from pvae.errors import InputError
from pvae.structures import count_of, is_structure, map_tensors, moved, tensors_of

__all__ = ["StructuredBatch"]


class StructuredBatch(Batch):
    """Named values of the same data, which are passed to the programs unchanged: packed sequences, lists, any object.

    The number of data is the length of the field ``index``, if there is one. Otherwise it is the number that the fields
    show (`pvae.structures.count_of`), which must be the same for all of them.

    Args:
        fields: values by name.

    Raises:
        InputError: for a name that a field cannot have; if the number of data is unknown or ambiguous; or if a tensor
            has a value that is not finite.
    """

    __slots__ = ("_size",)
    _size: int

    def __init__(self, fields: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_fields", dict(fields))
        object.__setattr__(self, "_size", _number_of_data(fields))
        for name, value in fields.items():
            check_field_name(name)
            for tensor in tensors_of(value):
                if tensor.is_floating_point() and not tensor.is_nested and not bool(tensor.isfinite().all()):
                    raise InputError(f"{name} needs finite values; it has NaN or infinite ones. Remove these data.")

    def _with_fields(self, fields: dict[str, Any]) -> StructuredBatch:
        batch = type(self).__new__(type(self))
        object.__setattr__(batch, "_fields", fields)
        object.__setattr__(batch, "_size", self._size)
        return batch

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self._fields),)

    def __repr__(self) -> str:
        return f"StructuredBatch({', '.join(f'{name}: {_kind(value)}' for name, value in self._fields.items())})"

    @property
    def size(self) -> int:
        """The number of data."""
        return self._size

    @property
    def device(self) -> torch.device:
        """The device of the first tensor; the CPU if there is none."""
        tensors = [tensor for value in self._fields.values() for tensor in tensors_of(value)]
        return tensors[0].device if tensors else torch.device("cpu")

    def take(self, index: Index) -> Batch:
        """Return all data; a part of them needs the collate function.

        Args:
            index: a slice over all data.

        Raises:
            InputError: for a part of the data.
        """
        if isinstance(index, slice) and len(range(*index.indices(self.size))) == self.size:
            return self
        structures = [name for name, value in self._fields.items() if is_structure(value)]
        raise InputError(
            f"A part of a batch needs tensors, and {', '.join(structures) or 'a field'} of this batch is not a tensor. "
            "Give the loader instead, from which parts can be read."
        )

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its fields on `device`."""
        return self._with_fields({name: moved(value, device) for name, value in self._fields.items()})

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with its tensors of real numbers changed."""
        return self._with_fields({name: map_tensors(value, change) for name, value in self._fields.items()})

    def replace(self, **fields: Tensor) -> Batch:
        """Return the batch with these fields replaced or added."""
        return StructuredBatch({**self._fields, **fields})


def _number_of_data(fields: Mapping[str, Any]) -> int:
    if "index" in fields and (index := count_of(fields["index"])) is not None:
        return index
    counts = {name: count for name, value in fields.items() if (count := count_of(value)) is not None}
    if len(set(counts.values())) == 1:
        return next(iter(counts.values()))
    shown = ", ".join(f"{name} has {count}" for name, count in counts.items())
    raise InputError(
        f"The number of data in a batch is not clear: {shown or 'no field shows one'}. Let the collate function "
        "return a field index with one number for each datum."
    )


def _kind(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
