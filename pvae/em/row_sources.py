"""Where rows of data come from: an array, which may lie in a file larger than memory, or batches read anew."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.errors import InputError

__all__ = ["ArrayRows", "BatchRows", "Rows", "Weighted", "as_tensor"]

Chunk = tuple[Tensor, Tensor | None]


def as_tensor(array: Any) -> Tensor:
    """Return an array as a tensor that shares its memory; a file opened for reading alone may be shared too."""
    if isinstance(array, Tensor):
        return array.detach()
    array = np.asarray(array)
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        # Nothing here writes into the data, so that the array is read-only is no matter.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


class Rows(ABC):
    """Rows of data that can be read over and over, in chunks.

    Attributes:
        features: number of columns.
        device: where the chunks are.
    """

    features: int
    device: torch.device

    @abstractmethod
    def chunks(self, size: int) -> Iterator[Chunk]:
        """Yield all rows in order: x, (at most size, features), and their sample weights or None."""

    @abstractmethod
    def take(self, indices: np.ndarray) -> Tensor:
        """Return the rows of these ascending numbers, (indices, features)."""


class ArrayRows(Rows):
    """Rows of one array.

    Args:
        x: (rows, features), of any floating type.
        weights: sample weights, (rows,), or None for 1 each.
        device: where the chunks go; by default where `x` is.
    """

    def __init__(self, x: Tensor, weights: Tensor | None = None, device: torch.device | None = None) -> None:
        self.x, self.weights = x, weights
        self.features = x.shape[1]
        self.device = x.device if device is None else device

    def chunks(self, size: int) -> Iterator[Chunk]:
        for start in range(0, len(self.x), size):
            rows = slice(start, start + size)
            weights = None if self.weights is None else self.weights[rows].to(self.device, torch.float64)
            yield self.x[rows].to(self.device), weights

    def take(self, indices: np.ndarray) -> Tensor:
        return self.x[torch.as_tensor(indices, device=self.x.device)].to(self.device)


class BatchRows(Rows):
    """Rows that come in batches, which `source` yields anew each time that it is asked.

    Args:
        source: an iterable that can be run through many times, such as a list or a loader, or a function that
            returns an iterator.
        device: where the chunks go.

    Raises:
        InputError: if the source can be run through only once, or a batch does not fit the ones before.
    """

    def __init__(self, source: Iterable[Any] | Callable[[], Iterable[Any]], device: torch.device | None = None) -> None:
        if not callable(source) and iter(source) is source:
            raise InputError(
                "EM runs through the data many times, and this iterator can be run through once; pass a function "
                "that returns a fresh one, or give its batches to partial_fit."
            )
        self._source = source
        self.device = torch.device("cpu") if device is None else device
        first = next(iter(self._batches()), None)
        if first is None or first.ndim != 2:
            came = "none" if first is None else f"one of shape {tuple(first.shape)}"
            raise InputError(f"Batches need the shape (rows, features); got {came}.")
        self.features = first.shape[1]
        self.dtype = first.dtype

    def _batches(self) -> Iterator[Tensor]:
        batches = self._source() if callable(self._source) else self._source
        for batch in batches:
            x = as_tensor(batch[0] if isinstance(batch, tuple | list) else batch)
            yield x if x.is_floating_point() else x.to(torch.float64)

    def chunks(self, size: int) -> Iterator[Chunk]:
        for number, batch in enumerate(self._batches()):
            if batch.ndim != 2 or batch.shape[1] != self.features:
                raise InputError(f"Batch {number} needs the shape (rows, {self.features}); got {tuple(batch.shape)}.")
            for start in range(0, len(batch), size):
                yield batch[start : start + size].to(self.device), None

    def take(self, indices: np.ndarray) -> Tensor:
        found, seen, at = [], 0, 0
        for x, _ in self.chunks(1 << 16):
            end = int(np.searchsorted(indices, seen + len(x)))
            found.append(x[torch.as_tensor(indices[at:end] - seen, device=x.device)])
            seen, at = seen + len(x), end
        return torch.cat(found)


class Weighted(Rows):
    """Rows that count more or less than they did.

    Args:
        rows: the data.
        factors: what sample weights are multiplied by, (rows,).
    """

    def __init__(self, rows: Rows, factors: Tensor) -> None:
        self.rows, self.factors = rows, factors
        self.features, self.device = rows.features, rows.device

    def chunks(self, size: int) -> Iterator[Chunk]:
        start = 0
        for x, weights in self.rows.chunks(size):
            factors = self.factors[start : start + len(x)]
            start += len(x)
            yield x, factors if weights is None else factors * weights

    def take(self, indices: np.ndarray) -> Tensor:
        return self.rows.take(indices)
