"""`MappedRows`: arrays in files that are mapped into memory; only the needed rows are read."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.data.readers import DAMAGED, require_npy, unreadable
from pvae.data.streams.stored_rows import Rows
from pvae.errors import InputError

__all__ = ["MappedArray", "MappedRows"]

#: The bytes that are read from a file before the memory of its pages is released.
_KEPT = 32 * 2**20
#: The measured memory that the system maps for one row, including the pages around it.
_PAGES_OF_ROW = 2**19


class MappedArray:
    """An array in a file. The memory of the parts that were read is released, so little memory is in use.

    Args:
        path: the file.
        dtype: the type of its values.
        shape: the shape of the array, (rows, ...).
        offset: the number of bytes before the values.
        order: ``"C"`` or ``"F"``, the order of the values.
    """

    def __init__(
        self, path: str | Path, dtype: np.dtype, shape: tuple[int, ...], offset: int = 0, order: str = "C"
    ) -> None:
        self.path, self.dtype, self.shape = Path(path), dtype, tuple(shape)
        self.offset, self.order = offset, order
        self._array: Any = None
        self._read = 0

    @classmethod
    def of_npy(cls, path: Path) -> MappedArray:
        """Return the array of a ``.npy`` file; only its header is read.

        Raises:
            InputError: if it is not a ``.npy`` file, is damaged, or holds Python objects.
        """
        require_npy(path)
        try:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except DAMAGED as error:
            raise unreadable(str(path), error) from error
        if mapped.ndim == 0:
            raise InputError(f"{path} has one number, but data need a row for each datum.")
        return cls.of_memmap(mapped)

    @classmethod
    def of_memmap(cls, array: np.memmap) -> MappedArray:
        """Return a whole `numpy.memmap`, which is opened again for reading.

        Args:
            array: the memory map itself, not a part of it.
        """
        order = "C" if array.flags.c_contiguous else "F"
        return cls(Path(str(array.filename)), array.dtype, array.shape, array.offset, order)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """The number of bytes of the values."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def rows(self, positions: Tensor) -> np.ndarray:
        """Return a copy of some rows.

        Args:
            positions: shape (rows,), in any order.

        Raises:
            InputError: if the file cannot be read any more.
        """
        array, numbers = self._opened(), positions.numpy()
        if len(numbers) > 1 and bool((np.diff(numbers) == 1).all()):
            chosen = np.array(array[numbers[0] : numbers[-1] + 1])
            self._count(chosen.nbytes)
            return chosen
        chosen = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        bytes_of_row = _PAGES_OF_ROW + self.nbytes // max(len(self), 1)
        size = max(1, _KEPT // bytes_of_row)
        for start in range(0, len(numbers), size):
            some = numbers[start : start + size]
            chosen[start : start + size] = array[some]
            self._count(len(some) * bytes_of_row)
        return chosen

    def _count(self, read: int) -> None:
        """Count the bytes that were read, and release the pages if there are many."""
        self._read += read
        if self._read > _KEPT or self.order == "F":  # a row of a file in Fortran order is on many pages
            self._release()

    def _opened(self) -> np.memmap:
        if self._array is None:
            try:
                self._array = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)  # type: ignore[call-overload]
            except (OSError, ValueError) as error:
                raise InputError(f"{self.path} cannot be read any more ({' '.join(str(error).split())}).") from error
        array: np.memmap = self._array
        return array

    def _release(self) -> None:
        """Release the memory of the pages that were read; they are read again when needed."""
        self._read = 0
        pages = self._array.base
        if isinstance(pages, mmap.mmap) and hasattr(pages, "madvise"):
            pages.madvise(mmap.MADV_DONTNEED)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_array": None, "_read": 0}


class MappedRows(Rows):
    """Arrays of the same length as fields of the data.

    Args:
        arrays: arrays by field; those in files are read row by row.
        account: one line that says what the data are.

    Raises:
        InputError: if the arrays differ in length, or have no data.
    """

    def __init__(self, arrays: Mapping[str, MappedArray | np.ndarray], account: str) -> None:
        lengths = {name: len(array) for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise InputError(f"Every field needs one entry per datum; {shown}.")
        if not lengths or 0 in lengths.values():
            raise InputError("The file has no data: its first dimension has size 0.")
        self.arrays, self.account = dict(arrays), account

    @property
    def size(self) -> int:
        """The number of data."""
        return len(next(iter(self.arrays.values())))

    def read(self, positions: Tensor) -> Mapping[str, Any]:
        """Return rows of each array.

        Args:
            positions: the numbers of the rows, shape (data,).
        """
        return {
            name: array.rows(positions) if isinstance(array, MappedArray) else array[positions.numpy()]
            for name, array in self.arrays.items()
        }

    def labels(self) -> np.ndarray | None:
        """Return the labels y, or None if there are none."""
        y = self.arrays.get("y")
        return y.rows(torch.arange(len(y))) if isinstance(y, MappedArray) else y
