"""Data sets and loaders of PyTorch, read once into arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pvae.data.raw_data import IN_MEMORY, RawData
from pvae.data.schema import Schema
from pvae.data.tables.table_options import TableOptions
from pvae.errors import InputError

__all__ = ["fields_of_item", "is_item_source", "read_items"]


def is_item_source(source: Any) -> bool:
    """Return whether an object is a data set or a loader of PyTorch, or has items by number like these."""
    if isinstance(source, Dataset | DataLoader):
        return True
    has_items = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    return has_items and not hasattr(source, "__array__") and not isinstance(source, str | bytes)


def read_items(source: Any, options: TableOptions) -> RawData:
    """Return the items of a data set, or the batches of a loader, joined. They are read once, in their order.

    Args:
        source: a data set with items that are x, (x, y) or a mapping to fields; or a loader of batches of them.
        options: must be empty, because these data are not a table.

    Raises:
        InputError: if there are no items, or they differ in shape or in their fields.
    """
    kind = type(source).__name__
    options.refuse_for(f"a {kind}")
    if isinstance(source, TensorDataset):
        fields = fields_of_item(list(source.tensors), "The data set")
        return RawData(IN_MEMORY, fields, Schema(account=f"a TensorDataset of {len(source)} data"))
    is_loader = isinstance(source, DataLoader)
    parts: dict[str, list[Any]] = {}
    for number, item in enumerate(_iterate(source)):
        fields = fields_of_item(item, f"Item {number}")
        _check_fields(parts, fields, number, is_loader)
        for name, value in fields.items():
            parts.setdefault(name, []).append(value)
    if not parts:
        raise InputError(f"The {kind} has no data. Fill it, or check its sampler.")
    join = torch.cat if is_loader else torch.stack
    arrays = {name: join([torch.as_tensor(value) for value in values]) for name, values in parts.items()}
    note = (
        f"the {kind} was read once and its data are kept: random transforms are not repeated in later epochs, and its "
        "order is not used"
    )
    return RawData(IN_MEMORY, arrays, Schema(account=f"a {kind} of {len(arrays['x'])} data"), (note,))


def _iterate(source: Any) -> Iterable[Any]:
    """Return the items; a data set with items by number need not be iterable."""
    if isinstance(source, DataLoader | IterableDataset) or not hasattr(source, "__len__"):
        return source
    return (source[number] for number in range(len(source)))


def fields_of_item(item: Any, place: str, *, keeps_values: bool = False) -> dict[str, Any]:
    """Return the fields of one item or batch as tensors or arrays.

    Args:
        item: x, (x, y) or a mapping with x.
        place: the name of the item, for the message.
        keeps_values: whether values that are not arrays are kept.

    Raises:
        InputError: if it is none of these.
    """
    if isinstance(item, Mapping):
        fields = {str(name): value for name, value in item.items()}
    elif isinstance(item, Sequence) and not isinstance(item, str | bytes) and not hasattr(item, "_fields"):
        fields = dict(zip(("x", "y"), item, strict=False)) if len(item) <= 2 else {}
    else:
        fields = {"x": item}
    if "x" not in fields:
        came = f"{len(item)} values" if hasattr(item, "__len__") else type(item).__name__
        raise InputError(
            f"{place} of the data needs to be x, (x, y) or a mapping with x; got {came}. Name the fields: let the data "
            "set return {'x': ..., 'y': ...}."
        )
    return {
        name: value if keeps_values and not isinstance(value, np.ndarray) else _as_array(value)
        for name, value in fields.items()
    }


def _as_array(value: Any) -> Any:
    """Return a value of one item as a tensor; pictures of Pillow become arrays of their pixels."""
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    return torch.from_numpy(np.array(array)) if array.dtype.kind in "biuf" else array


def _check_fields(parts: Mapping[str, list[Any]], fields: Mapping[str, Any], number: int, is_loader: bool) -> None:
    """Check that an item has the fields and shapes of the first one."""
    if not parts:
        return
    if parts.keys() != fields.keys():
        raise InputError(
            f"Item 0 of the data has the fields {', '.join(parts)}; item {number} has {', '.join(fields)}."
        )
    for name, value in fields.items():
        first, shape = tuple(parts[name][0].shape), tuple(value.shape)
        if (first[1:], len(first)) != (shape[1:], len(shape)) if is_loader else first != shape:
            raise InputError(
                f"{name} of {'batch' if is_loader else 'item'} {number} has shape {shape}, the first one "
                f"{first}. All data need one shape: pad the short ones and pass a mask, or crop the long ones."
            )
