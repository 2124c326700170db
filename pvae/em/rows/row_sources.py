"""Sources of rows of data that can be read many times: an array, which may be a memory-mapped file, or batches."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.errors import InputError

__all__ = ["ArrayRows", "BatchRows", "Chunk", "RowSource", "WeightedRows", "as_tensor", "nan_where_masked"]

#: Data of a chunk, and their sample weights, (batch,), or None for 1 each.
Chunk = tuple[Tensor, Tensor | None]
#: Number of rows that are read at a time where only the rows are copied or counted.
READ_ROWS = 1 << 16


def as_tensor(array: Any) -> Tensor:
    """Return an array as a tensor of its shape that shares its memory, also where the array is read-only.

    An array with a negative stride is copied, because PyTorch has no such strides.
    """
    if isinstance(array, Tensor):
        return array.detach()
    array = np.asarray(nan_where_masked(array))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        # EM never writes into the data, so that a read-only array is safe.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def nan_where_masked(array: Any) -> Any:
    """Return a masked array as float64 with NaN where it is masked; anything else as it is."""
    if not isinstance(array, np.ma.MaskedArray):
        return array
    return np.ma.filled(array.astype(np.float64), np.nan) if np.ma.getmaskarray(array).any() else array.data


class RowSource(ABC):
    """Rows of data that can be read many times, in chunks.

    Attributes:
        features: number of columns.
        device: the device of the chunks.
    """

    features: int
    device: torch.device

    @abstractmethod
    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield all rows in order.

        Args:
            size: largest number of rows in a chunk.

        Yields:
            x, (batch, features), and sample weights, (batch,) float64, or None for 1 each.
        """

    @abstractmethod
    def take(self, indices: np.ndarray) -> Tensor:
        """Return selected rows, (selected, features).

        Args:
            indices: row numbers in ascending order, (selected,).
        """

    def count_rows(self) -> int:
        """Return the number of rows, after a pass over them."""
        return sum(len(x) for x, _ in self.chunks(READ_ROWS))


class ArrayRows(RowSource):
    """Rows of one array.

    Args:
        x: (rows, features), of any floating-point dtype.
        weights: sample weights, (rows,), or None for 1 each.
        device: the device of the chunks; by default the device of `x`.
    """

    def __init__(self, x: Tensor, weights: Tensor | None = None, device: torch.device | None = None) -> None:
        self.x = x
        self.weights = weights
        self.features = x.shape[1]
        self.device = x.device if device is None else device

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield slices of the array in order, (batch, features), and of the weights, (batch,), or None.

        Args:
            size: largest number of rows in a chunk.
        """
        for start in range(0, len(self.x), size):
            rows = slice(start, start + size)
            weights = None if self.weights is None else self.weights[rows].to(self.device, torch.float64)
            yield self.x[rows].to(self.device), weights

    def take(self, indices: np.ndarray) -> Tensor:
        """Return the rows of the array at `indices`, (selected, features), on the device of the chunks."""
        return self.x[torch.as_tensor(indices, device=self.x.device)].to(self.device)


class BatchRows(RowSource):
    """Rows that come in batches. Each pass over the data reads the batches from their source again.

    Args:
        source: an iterable that can be iterated many times, such as a list or a loader, or a function that returns
            an iterator. A batch is an array or tensor, (rows, features), or a tuple that has it as first entry.
        device: the device of the chunks; by default the CPU.

    Raises:
        InputError: if the source can be iterated only once, or has no batch of the right shape.
    """

    def __init__(self, source: Iterable[Any] | Callable[[], Iterable[Any]], device: torch.device | None = None) -> None:
        if not callable(source) and iter(source) is source:
            raise InputError(
                "EM reads the data many times and needs an iterable that can be iterated again; got an iterator, which "
                "can be iterated once. Pass a function that returns a fresh iterator, or pass the batches to "
                "partial_fit."
            )
        self._source = source
        self.device = torch.device("cpu") if device is None else device
        first = next(iter(self._batches()), None)
        if first is None or first.ndim != 2:
            received = "none" if first is None else f"one of shape {tuple(first.shape)}"
            raise InputError(f"Batches need the shape (rows, features); got {received}.")
        self.features = first.shape[1]
        self.dtype = first.dtype

    def _batches(self) -> Iterator[Tensor]:
        batches = self._source() if callable(self._source) else self._source
        for batch in batches:
            x = as_tensor(batch[0] if isinstance(batch, tuple | list) else batch)
            yield x if x.is_floating_point() else x.to(torch.float64)

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield the batches of one pass over the source, (batch, features), split where they are long, and None.

        Args:
            size: largest number of rows in a chunk.

        Raises:
            InputError: if a batch has another number of features than the first batch.
        """
        for number, batch in enumerate(self._batches()):
            if batch.ndim != 2 or batch.shape[1] != self.features:
                raise InputError(f"Batch {number} needs the shape (rows, {self.features}); got {tuple(batch.shape)}.")
            for start in range(0, len(batch), size):
                yield batch[start : start + size].to(self.device), None

    def take(self, indices: np.ndarray) -> Tensor:
        """Return the rows at `indices`, (selected, features), after a pass over the source.

        Args:
            indices: row numbers in ascending order, (selected,).
        """
        selected = []
        rows_before = 0
        start = 0
        for x, _ in self.chunks(READ_ROWS):
            end = int(np.searchsorted(indices, rows_before + len(x)))
            selected.append(x[torch.as_tensor(indices[start:end] - rows_before, device=x.device)])
            rows_before += len(x)
            start = end
        return torch.cat(selected)


class WeightedRows(RowSource):
    """Rows with changed sample weights.

    Args:
        rows: the data.
        factors: multiply the sample weights, (rows,).
    """

    def __init__(self, rows: RowSource, factors: Tensor) -> None:
        self.rows = rows
        self.factors = factors
        self.features = rows.features
        self.device = rows.device

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield the chunks of the data, (batch, features), with weights times `factors`, (batch,).

        Args:
            size: largest number of rows in a chunk.
        """
        start = 0
        for x, weights in self.rows.chunks(size):
            factors = self.factors[start : start + len(x)]
            start += len(x)
            yield x, factors if weights is None else factors * weights

    def take(self, indices: np.ndarray) -> Tensor:
        """Return the rows of the data at `indices`, (selected, features). Weights do not change them."""
        return self.rows.take(indices)
