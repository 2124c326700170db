"""A data set as read, and the draw of its training, validation and test splits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.batch import Batch, as_batch
from pvae.checks import is_number, is_whole
from pvae.data.binarise import derived_seed
from pvae.data.data_digest import digest
from pvae.data.schema import Schema
from pvae.data.splits import Splits
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError

__all__ = ["DataSource", "draw_splits", "source_of"]

_ROWS = 1 << 14
_PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class DataSource:
    """Data as read, with the splits that they contain and the default sizes of the other splits.

    Attributes:
        name: name of the data set or of the file.
        train: the training data, or all data.
        data_shape: shape of one datum.
        digest: SHA-256 of the content.
        own: validation and test splits that the source contains.
        defaults: fraction or count for each split that the source does not contain.
        schema: names, types and labels.
        notes: what was inferred when the data were read.
        row_names: the name and the values, (rows,), of the first column that names the rows, or None.
        is_own: whether only this object uses the memory of x, so the splits may overwrite it.
    """

    name: str
    train: Batch
    data_shape: tuple[int, ...]
    digest: str
    own: Mapping[str, Batch] = field(default_factory=dict)
    defaults: Mapping[str, float] = field(default_factory=lambda: {"validation": 0.1, "test": 0.1})
    schema: Schema = field(default_factory=Schema)
    notes: tuple[str, ...] = ()
    row_names: tuple[str, np.ndarray] | None = None
    is_own: bool = False


def source_of(
    name: str, fields: Mapping[str, Any], schema: Schema | None = None, notes: tuple[str, ...] = ()
) -> DataSource:
    """Return the arrays of a user as a source.

    Args:
        name: name of the source, for messages and records.
        fields: arrays by name; ``x_test``, ``y_validation`` and similar names belong to other splits.
        schema: names, types and labels, if they are known.
        notes: what was inferred when the data were read.

    Raises:
        InputError: if there is no ``x``, an array cannot be used, or data of different splits differ in shape.
    """
    parts = _arrays_by_part(name, fields)
    if "x" not in parts["train"]:
        names = ", ".join(str(key) for key in fields) or "none"
        raise InputError(f"{name} needs an array named x (the data); it has {names}. Rename the array to x.")
    batches = {part: _checked_batch(name, part, arrays) for part, arrays in parts.items() if arrays}
    train = batches.pop("train")
    for part, batch in batches.items():
        _check_agreement(name, part, batch, train)
    everything = {"train": train, **batches}
    content = {f"{part}.{key}": tensor for part, batch in everything.items() for key, tensor in batch.items()}
    shape = tuple(train.x.shape[1:])
    return DataSource(name, train, shape, digest(content), batches, schema=schema or Schema(), notes=notes)


def _arrays_by_part(name: str, fields: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the arrays of each part; the suffix of a name, such as ``_test``, names its part."""
    parts: dict[str, dict[str, Any]] = {part: {} for part in _PARTS}
    for key, value in fields.items():
        stem, _, suffix = key.rpartition("_") if isinstance(key, str) else (key, "", "")
        part, field_name = (suffix, stem) if suffix in _PARTS and stem else ("train", key)
        if field_name in parts[part]:
            raise InputError(f"{name} has both {field_name!r} and '{field_name}_train'; keep one.")
        parts[part][field_name] = value
    return parts


def draw_splits(source: DataSource, *, validation: float | None, test: float | None, seed: int) -> Splits:
    """Return the splits of a source: those that it contains, and other splits drawn from its data.

    Args:
        source: the data.
        validation: fraction of the data that are not test data, or a count; 0 for no split; None for the split of the
            source itself, or the default size.
        test: fraction of the data, or a count; 0 for no split; None for the split of the source itself, or the
            default size.
        seed: decides which data are drawn.

    Raises:
        InputError: if a size is neither a fraction nor a count, is given for a split that the source contains, or
            leaves no data to train on.
    """
    source = _with_all_masks(source)
    order = _random_order(source, validation, test, seed)
    parts: dict[str, Batch | None] = {}
    positions = {}
    state, notes = hashlib.sha256(source.digest.encode()), list(source.notes)
    for part, size in (("test", test), ("validation", validation)):
        if part in source.own:
            parts[part] = _own_part(source, part, size)
            state.update(f"{part}:{'own' if parts[part] is not None else 'none'};".encode())
            continue
        chosen, order = _draw_part(source, part, size, order)
        positions[part] = chosen
        parts[part] = _taken(source.train, chosen) if len(chosen) else None
        state.update(f"{part}:{len(chosen)};".encode() + chosen.numpy().tobytes())
        if len(chosen):
            notes.append(f"{part}: {len(chosen)} of {source.train.size} data, drawn with seed {seed}")
    notes += _notes_of_no_draw(source, {"validation": validation, "test": test})
    # The remaining data keep the order of the source, and share its memory if nothing was drawn.
    positions["train"] = order.sort().values
    is_whole = len(order) == source.train.known_size or source.train.known_size is None
    train = source.train if is_whole else _remaining(source, positions["train"])
    return Splits(
        train=train, validation=parts["validation"], test=parts["test"],
        name=source.name, data_shape=source.data_shape, binarise="auto",
        seed=seed, checksum=state.hexdigest(), notes=tuple(notes), schema=source.schema,
        positions=positions, row_names=source.row_names,
    )  # fmt: skip


def _with_all_masks(source: DataSource) -> DataSource:
    """Return a source with the same masks in all of its splits. In a split without a mask, all entries are observed."""
    parts = [part for part in (source.train, *source.own.values()) if not isinstance(part, StoredBatch)]
    masks = {name: mask for part in parts for name, mask in part.items() if name == "mask" or name.endswith("_mask")}

    def complete(part: Batch) -> Batch:
        if isinstance(part, StoredBatch):  # `replace` would read all data of the part
            return part
        missing = [name for name in masks if name not in part]
        missing = [name for name in missing if (name.removesuffix("_mask") if name != "mask" else "x") in part]
        return part.replace(**{name: masks[name].new_ones(part.size, *masks[name].shape[1:]) for name in missing})

    own = {name: complete(part) for name, part in source.own.items()}
    return replace(source, train=complete(source.train), own=own)


def _random_order(source: DataSource, validation: float | None, test: float | None, seed: int) -> Tensor:
    """Return the data in random order; a source that makes its own batches has no order.

    Raises:
        InputError: if a split is to be drawn from such a source.
    """
    has_own_batches = _has_own_batches(source.train)
    for part, wanted in (("validation", validation), ("test", test)):
        if has_own_batches and wanted and part not in source.own:
            raise InputError(
                f"No {part} split can be drawn from {source.schema.account or source.name}. Give the splits "
                "separately, as "
                f"{{'train': ..., {part!r}: ...}}, or {part}=0."
            )
    return torch.randperm(
        source.train.known_size or 0, generator=torch.Generator().manual_seed(derived_seed(seed, "split"))
    )


def _has_own_batches(train: Batch) -> bool:
    """Return whether the source makes its batches itself, so no data can be drawn from it."""
    return train.known_size is None or (isinstance(train, StoredBatch) and train.own_batch_size is not None)


def _notes_of_no_draw(source: DataSource, sizes: Mapping[str, float | None]) -> list[str]:
    """Return a line if a split that other data have by default is not drawn, because the source makes its batches."""
    names = [part for part, size in sizes.items() if size is None and part not in source.own]
    if not names or not _has_own_batches(source.train):
        return []
    effect = ", so the last parameters of a training are kept" if "validation" in names else ""
    return [
        f"a loader or an iterable gives no {' and no '.join(names)} split{effect}; give {{'train': ..., {names[0]!r}: "
        f"...}}, or {names[0]}=0 if none is needed"
    ]


def _taken(batch: Batch, positions: Tensor) -> Batch:
    """Return some data; data that are not in memory are not read."""
    return batch.subset(positions) if isinstance(batch, StoredBatch) else batch.take(positions)


def _remaining(source: DataSource, rows: Tensor) -> Batch:
    """Return the data at ascending positions, (data,), in the memory of the source if only the source uses it."""
    if not source.is_own or isinstance(source.train, StoredBatch):
        return _taken(source.train, rows)
    x = source.train.x
    for start in range(0, len(rows), _ROWS):
        # No row moves to a later place, so each row is read before it is overwritten.
        chosen = rows[start : start + _ROWS]
        x[start : start + len(chosen)] = x[chosen]
    others = {name: tensor[rows] for name, tensor in source.train.items() if name != "x"}
    return Batch(**{name: x[: len(rows)] if name == "x" else others[name] for name in source.train.names})


def _own_part(source: DataSource, part: str, size: float | None) -> Batch | None:
    """Return a split that the source contains, or None if its size is given as 0."""
    if size is None:
        return source.own[part]
    if size == 0:
        return None
    raise InputError(
        f"{source.name} contains its own {part} split of {source.own[part].size} data; "
        f"leave {part} out, or give {part}=0 for no split. Got {part}={size}."
    )


def _draw_part(source: DataSource, part: str, size: float | None, order: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of a split, and the positions that remain for the others."""
    available = len(order)
    if source.train.known_size is None:
        return order, order  # nothing is drawn; `_random_order` has checked this
    count = _count(part, source.defaults[part] if size is None else size, available)
    if count >= available:
        raise InputError(
            f"{part} would take {count} of the {available} data that are left in {source.name}, and leave none to "
            f"train on. Give a smaller number, or {part}=0."
        )
    return order[:count], order[count:]


def _count(part: str, size: Any, available: int) -> int:
    if not is_number(size) or not (0 <= size < 1 or (is_whole(size) and size >= 1)):
        raise InputError(f"{part} needs a fraction from 0 to below 1, or a count of data; got {size!r}.")
    number = float(size)
    return int(number) if number >= 1 or number == 0 else max(1, round(number * available))


def _checked_batch(name: str, part: str, fields: Mapping[str, Any]) -> Batch:
    try:
        return as_batch(fields)
    except InputError as error:
        where = name if part == "train" else f"{name}, {part} split"
        raise InputError(f"{where}: {error}") from error


def _check_agreement(name: str, part: str, batch: Batch, train: Batch) -> None:
    if "x" not in batch:
        raise InputError(f"{name} has {batch.names[0]}_{part} but no x_{part}.")
    if batch.x.shape[1:] != train.x.shape[1:]:
        came, needed = tuple(batch.x.shape[1:]), tuple(train.x.shape[1:])
        raise InputError(
            f"{name}: one datum of x_{part} has shape {came}, one of x has shape {needed}. Make the shapes equal."
        )
