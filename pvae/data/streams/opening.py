"""Open data that are not read into memory: data sets and loaders of PyTorch, mapped files and folders of files."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from pvae.batch import Batch
from pvae.data.channels import with_channels_first
from pvae.data.containers import is_of_pytorch
from pvae.data.data_source import DataSource
from pvae.data.label_values import number_labels
from pvae.data.nan_to_mask import check_missing
from pvae.data.schema import Schema
from pvae.data.streams.iterable_batch import IterableBatch
from pvae.data.streams.loader_batch import LoaderBatch, can_be_indexed
from pvae.data.streams.mapped_rows import MappedArray, MappedRows
from pvae.data.streams.preparation import Preparation
from pvae.data.streams.row_batch import RowBatch
from pvae.data.streams.shard_rows import SHARD_SUFFIXES, ShardRows
from pvae.data.streams.stored_batch import StoredBatch
from pvae.data.streams.stored_rows import ItemRows, LabelledRows, Rows
from pvae.data.tables.table_options import TableOptions
from pvae.errors import InputError
from pvae.memory import format_bytes, free_bytes
from pvae.structures import is_structure

__all__ = ["open_stored", "shard_files"]

#: Data that need more than this share of the free memory stay in their files.
_SHARE_OF_MEMORY = 0.5
_PARTS = ("train", "validation", "test")


def open_stored(
    source: Any, options: TableOptions, channels: str, like: Schema | None, resident: bool | None
) -> DataSource | None:
    """Return data that are not read into memory; None if other readers must read the source into memory.

    Args:
        source: a path or an object.
        options: as for tables; all except the one for missing values are errors.
        channels: the option of `load_data`.
        like: the schema of earlier data, which give the numbers of labels; or None.
        resident: True reads the data into memory; False does not; None does not for data that need more than half of
            the free memory, and for data sets and loaders of PyTorch, because their transforms may draw.

    Raises:
        InputError: if the data cannot be read or used.
    """
    if isinstance(source, Path):
        return _open_path(source, options, channels, like, resident)
    arrays = _mapped_arrays(source)
    if arrays is not None:
        _refuse_table_options(options, "a memory map")
        size = sum(array.nbytes for array in arrays.values())
        if _stays(size, resident):
            rows = MappedRows(arrays, f"a memory map of {format_bytes(size)}")
            return _of_parts({"train": rows}, "the data", options, channels, like)
        return None
    if resident or isinstance(source, TensorDataset) or not is_of_pytorch(source):
        return None
    _refuse_table_options(options, f"a {type(source).__name__}")
    prepare = Preparation(channels, options.missing, checks_labels=True, drops_labels=_ignores_labels(like))
    return _of_batch(_batch_of(source, prepare), "the data")


def _ignores_labels(like: Schema | None) -> bool:
    return like is not None and like.ignores_labels


def _open_path(
    path: Path, options: TableOptions, channels: str, like: Schema | None, resident: bool | None
) -> DataSource | None:
    if path.suffix.lower() == ".npy" and path.is_file():
        _refuse_table_options(options, str(path))
        array = MappedArray.of_npy(path)
        if not _stays(array.nbytes, resident):
            return None
        rows: Rows = MappedRows({"x": array}, f"{format_bytes(array.nbytes)}, read in parts")
        return _of_parts({"train": rows}, path.name, options, channels, like)
    files = shard_files(path)
    if not any(files.values()):
        return None
    _refuse_table_options(options, f"the folder {path}")
    shards = {part: ShardRows(paths) for part, paths in files.items()}
    opened = _of_parts(shards, path.name, options, channels, like)
    if _stays(sum(each.bytes for each in shards.values()), resident):
        return opened
    own = {part: _resident(batch) for part, batch in opened.own.items()}
    return replace(opened, train=_resident(opened.train), own=own)


def _resident(batch: Batch) -> Batch:
    return batch.resident() if isinstance(batch, StoredBatch) else batch


def shard_files(path: Path) -> dict[str, list[Path]]:
    """Return the files of arrays in a folder, by split; empty if there are none.

    Args:
        path: a folder with files; or with a folder ``train`` of files, and optional folders ``validation`` and
            ``test``.

    Raises:
        InputError: if the folder has both, or files of several kinds.
    """
    if not path.is_dir():
        return {}
    files = {"train": _shards_in(path)}
    inside = {part: _shards_in(path / part) for part in _PARTS}
    if files["train"] and any(inside.values()):
        raise InputError(
            f"{path} has files of data, and also folders train, validation or test. Keep only the files or only the "
            "folders."
        )
    if inside["train"]:
        files = {part: paths for part, paths in inside.items() if paths}
    return files if files["train"] else {}


def _shards_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    paths = sorted(each for each in folder.iterdir() if each.suffix.lower() in SHARD_SUFFIXES and each.is_file())
    kinds = sorted({each.suffix.lower() for each in paths})
    if len(kinds) > 1:
        raise InputError(f"{folder} has files of several kinds, {' and '.join(kinds)}. Keep those of one kind.")
    return paths


def _refuse_table_options(options: TableOptions, source: str) -> None:
    options.refuse_for(source)
    check_missing("error" if not options.missing else "mask")


def _stays(size: int, resident: bool | None) -> bool:
    """Return whether data of this size in bytes are not read into memory."""
    if resident is not None:
        return not resident
    free = free_bytes(torch.device("cpu"))
    return free is not None and size > _SHARE_OF_MEMORY * free


def _mapped_arrays(source: Any) -> dict[str, MappedArray | np.ndarray] | None:
    """Return the arrays of a memory map, or of a mapping or pair with one; None for other objects."""
    if isinstance(source, np.memmap):
        source = {"x": source}
    if isinstance(source, tuple) and len(source) == 2:
        source = dict(zip(("x", "y"), source, strict=True))
    if not isinstance(source, Mapping) or not isinstance(source.get("x"), np.memmap):
        return None
    if any(isinstance(name, str) and name.endswith(tuple(f"_{part}" for part in _PARTS)) for name in source):
        return None  # the arrays of other splits, which the other reader handles
    arrays: dict[str, MappedArray | np.ndarray] = {}
    for name, value in source.items():
        is_whole = isinstance(value, np.memmap) and isinstance(value.base, mmap.mmap)
        plain = value.numpy() if isinstance(value, Tensor) else np.asanyarray(value)
        arrays[str(name)] = MappedArray.of_memmap(value) if is_whole else plain
    return arrays


def _batch_of(source: Any, prepare: Preparation) -> StoredBatch:
    """Return a data set or loader of PyTorch as a batch that is read in parts."""
    if isinstance(source, DataLoader) and can_be_indexed(source):
        return LoaderBatch(source, prepare)
    if isinstance(source, DataLoader | IterableDataset):
        return IterableBatch(source, prepare)
    try:
        size = len(source)
    except TypeError:
        kind = type(source).__name__
        raise InputError(
            f"A {kind} needs __len__ in addition to __getitem__, or must be an IterableDataset. Add __len__, the "
            "number of its data."
        ) from None
    if size == 0:
        raise InputError(f"The {type(source).__name__} has no data. Fill it.")
    return RowBatch(ItemRows(source), prepare)


def _of_parts(
    parts: Mapping[str, Rows], name: str, options: TableOptions, channels: str, like: Schema | None
) -> DataSource:
    """Return rows of files as a source with its own splits; the labels of all splits are numbered together."""
    drops_labels = _ignores_labels(like)
    labels = {part: None if drops_labels else rows.labels() for part, rows in parts.items()}
    fields = {_label_name(part): y for part, y in labels.items() if y is not None}
    classes = None if like is None else like.classes
    numbered = number_labels(fields, classes=classes, hidden_allowed=options.missing)
    batches = {}
    for part, rows in parts.items():
        y = numbered.fields.get(_label_name(part))
        labelled = rows if y is None else LabelledRows(rows, np.asarray(y))
        batches[part] = RowBatch(labelled, Preparation(channels, options.missing, drops_labels=drops_labels))
    source = _of_batch(batches["train"], name, numbered.notes, numbered.classes)
    own = {part: batch for part, batch in batches.items() if part != "train"}
    for part, batch in own.items():
        shape = tuple(batch.form.x.shape[1:])
        if shape != source.data_shape:
            raise InputError(f"{name}: one datum of {part} has shape {shape}, one of train {source.data_shape}.")
    contents = [source.digest, *(f"{part}:{batch.content}" for part, batch in own.items())]
    digest = hashlib.sha256(";".join(contents).encode()).hexdigest() if own else source.digest
    return replace(source, own=own, digest=digest)


def _label_name(part: str) -> str:
    return "y" if part == "train" else f"y_{part}"


def _of_batch(batch: StoredBatch, name: str, notes: tuple[str, ...] = (), classes: tuple[Any, ...] = ()) -> DataSource:
    prepare = batch.prepare
    notes = (*notes, *_channel_notes(batch))
    schema = Schema(
        account="; ".join([batch.account, *notes]),
        classes=classes,
        channels=prepare.channels if prepare.channels != "auto" else "",
        options={"missing": True} if prepare.missing else {},
    )
    has_own_batches = batch.known_size is None or batch.own_batch_size is not None
    size = 0.0 if has_own_batches else 0.1
    return DataSource(
        name=name,
        train=batch,
        data_shape=() if is_structure(batch.form.x) else tuple(batch.form.x.shape[1:]),
        digest=batch.content,
        defaults={"validation": size, "test": size},
        schema=schema,
        notes=(*notes, *batch.notes),
    )


def _channel_notes(batch: StoredBatch) -> tuple[str, ...]:
    """Return a note if the channels of pictures are moved."""
    if is_structure(batch.form.x):
        return ()
    as_read = batch.with_preparation(replace(batch.prepare, channels="first")).form
    return with_channels_first({"x": as_read.x}, batch.prepare.channels)[1]
