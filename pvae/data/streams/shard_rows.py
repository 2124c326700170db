"""`ShardRows`: the files of a folder, each with some of the data, one after another."""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.data.file_data import read_path
from pvae.data.readers import DAMAGED, read_npz, require_npz, unreadable
from pvae.data.streams.mapped_rows import MappedArray
from pvae.data.streams.stored_rows import Rows
from pvae.data.tables.table_options import TableOptions
from pvae.errors import InputError

__all__ = ["SHARD_SUFFIXES", "ShardRows"]

SHARD_SUFFIXES = (".npy", ".npz", ".parquet")


class _Shard(ABC):
    """One file.

    Args:
        path: the file.
    """

    #: Whether single rows can be read without reading the whole file.
    has_random_access = False

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def forms(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Return shape and type of each array, without reading its values if the file records them."""

    @abstractmethod
    def load(self) -> Mapping[str, Any]:
        """Return the arrays, in memory unless single rows can be read."""

    def labels(self) -> np.ndarray | None:
        """Return the array y, or None if there is none."""
        y = self.load().get("y")
        return None if y is None else np.asarray(y)


class _NpyShard(_Shard):
    has_random_access = True

    def forms(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        array = MappedArray.of_npy(self.path)
        return {"x": (array.shape, array.dtype)}

    def load(self) -> Mapping[str, Any]:
        return {"x": MappedArray.of_npy(self.path)}


class _NpzShard(_Shard):
    def forms(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        require_npz(self.path)
        forms = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                for member in archive.namelist():
                    with archive.open(member) as file:
                        is_first = np.lib.format.read_magic(file) == (1, 0)
                        read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
                        shape, _, dtype = read(file)
                        forms[member.removesuffix(".npy")] = shape, dtype
        except DAMAGED as error:
            raise unreadable(str(self.path), error) from error
        return forms

    def load(self) -> Mapping[str, Any]:
        return read_npz(self.path)

    def labels(self) -> np.ndarray | None:
        with np.load(self.path, allow_pickle=False) as archive:  # only this array is read
            return archive["y"] if "y" in archive.files else None


class _ParquetShard(_Shard):
    def forms(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        return {name: (array.shape, array.dtype) for name, array in self.load().items()}

    def load(self) -> Mapping[str, Any]:
        return {name: np.asarray(value) for name, value in read_path(self.path, TableOptions()).fields.items()}


_KINDS: dict[str, type[_Shard]] = {".npy": _NpyShard, ".npz": _NpzShard, ".parquet": _ParquetShard}


class ShardRows(Rows):
    """The rows of several files, in the order of the names of the files. One file that is read whole is kept.

    Args:
        paths: the files, at least one.

    Raises:
        InputError: if a file is damaged, or differs from the first file in its arrays, their types or the shape of a
            datum.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.shards = [_KINDS[path.suffix.lower()](path) for path in sorted(paths)]
        sizes = []
        first: dict[str, Any] = {}
        self.bytes = 0
        for shard in self.shards:
            forms = shard.forms()
            sizes.append(_rows_of(shard.path, forms))
            first = first or forms
            _require_same(self.shards[0].path, first, shard.path, forms)
            self.bytes += _bytes_of(forms)
        self.starts = torch.tensor([0, *sizes]).cumsum(0)
        self.has_random_access = all(shard.has_random_access for shard in self.shards)
        self.account = f"{len(self.shards)} files, from {self.shards[0].path.name} to {self.shards[-1].path.name}"
        self._loaded: dict[int, Mapping[str, Any]] = {}

    @property
    def size(self) -> int:
        """The number of data of all files."""
        return int(self.starts[-1])

    def labels(self) -> np.ndarray | None:
        """Return the labels y of all files, or None if they have none."""
        parts = [shard.labels() for shard in self.shards]
        return np.concatenate([part for part in parts if part is not None]) if parts[0] is not None else None

    @property
    def blocks(self) -> Sequence[int] | None:
        """The first position of each file except the first one; None if single rows of all files can be read."""
        return None if self.has_random_access else self.starts[1:-1].tolist()

    def read(self, positions: Tensor) -> Mapping[str, Any]:
        """Return rows of the files.

        Args:
            positions: the numbers of the rows, shape (data,).

        Raises:
            InputError: if a file cannot be read any more.
        """
        numbers = torch.bucketize(positions, self.starts[1:], right=True)
        result: dict[str, np.ndarray] = {}
        for number in dict.fromkeys(numbers.tolist()):
            places = (numbers == number).nonzero().ravel()
            for name, rows in self._rows(number, positions[places] - self.starts[number]).items():
                whole = result.setdefault(name, np.empty((len(positions), *rows.shape[1:]), rows.dtype))
                whole[places.numpy()] = rows
        return result

    def _rows(self, number: int, positions: Tensor) -> dict[str, np.ndarray]:
        arrays = self._arrays(number)
        return {
            name: array.rows(positions) if isinstance(array, MappedArray) else array[positions.numpy()]
            for name, array in arrays.items()
        }

    def _arrays(self, number: int) -> Mapping[str, Any]:
        """Return the arrays of a file. The last file without random access that was read is kept in memory."""
        if number not in self._loaded:
            if not self.has_random_access:
                self._loaded.clear()  # before the next file is read, so there are never two in memory
            arrays = self.shards[number].load()
            expected = int(self.starts[number + 1] - self.starts[number])
            if any(len(array) != expected for array in arrays.values()):
                raise InputError(
                    f"{self.shards[number].path} has changed since it was first read. Load the data again."
                )
            self._loaded[number] = arrays
        return self._loaded[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": {}}


def _bytes_of(forms: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> int:
    return sum(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in forms.values())


def _rows_of(path: Path, forms: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> int:
    lengths = {name: shape[0] if shape else 0 for name, (shape, _) in forms.items()}
    if "x" not in forms:
        raise InputError(f"{path} needs an array named x (the data); it has {', '.join(forms) or 'none'}. Rename it.")
    if len(set(lengths.values())) > 1 or not lengths["x"]:
        shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InputError(f"{path} needs at least one datum, and one entry per datum in each array; {shown}.")
    return lengths["x"]


def _require_same(
    first_path: Path,
    first: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    path: Path,
    forms: Mapping[str, tuple[tuple[int, ...], np.dtype]],
) -> None:
    """Raise InputError if a file has other arrays than the first one."""
    if forms.keys() != first.keys():
        raise InputError(
            f"{path} has the arrays {', '.join(forms)}, but {first_path} has {', '.join(first)}. All files of the "
            "folder need the same ones."
        )
    for name, (shape, dtype) in forms.items():
        needed, needed_type = first[name]
        if shape[1:] != needed[1:] or dtype != needed_type:
            raise InputError(
                f"{name} in {path} has shape {shape[1:]} per datum and type {dtype}, but in {first_path} it has "
                f"{needed[1:]} and {needed_type}. All files of the folder need the same shape and type."
            )
