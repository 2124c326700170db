"""The SHA-256 of data: the same for arrays in memory and for data that are read in parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["digest", "digest_of_chunks"]


def digest(arrays: Mapping[str, Tensor | np.ndarray]) -> str:
    """Return the SHA-256 of the names, dtypes, shapes and bytes of arrays, in the order of their names.

    Args:
        arrays: arrays by name.
    """
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = _as_array(arrays[name])
        state.update(_header(name, array, len(array)))
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def digest_of_chunks(chunks: Mapping[str, Iterable[Tensor]], size: int) -> str:
    """Return what `digest` returns for the whole arrays, from their parts.

    Args:
        chunks: for each name the parts of an array, each of shape (rows, ...), in order; at least one.
        size: the number of rows of each whole array.
    """
    state = hashlib.sha256()
    for name in sorted(chunks):
        for number, array in enumerate(_arrays(chunks[name])):
            if number == 0:
                state.update(_header(name, array, size))
            state.update(array.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def _arrays(chunks: Iterable[Tensor]) -> Iterator[np.ndarray]:
    for chunk in chunks:
        yield _as_array(chunk)


def _header(name: str, array: np.ndarray, size: int) -> bytes:
    return f"{name}:{array.dtype}:{(size, *array.shape[1:])};".encode()


def _as_array(value: Tensor | np.ndarray) -> np.ndarray:
    """Return an array in contiguous memory; for dtypes that NumPy does not have, such as bfloat16, its bytes."""
    if isinstance(value, Tensor):
        value = value.cpu()
        value = (
            torch.atleast_1d(value).contiguous().view(torch.uint8) if value.dtype == torch.bfloat16 else value
        ).numpy()
    return np.ascontiguousarray(value)
