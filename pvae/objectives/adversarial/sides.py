"""`Sides`: the two distributions that a critic compares, as rows of features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Sides", "concatenate_rows", "widest_dtype"]


@dataclass(frozen=True)
class Sides:
    """The two distributions that a critic compares, row by row.

    Attributes:
        q: sites as data and guide give them, each of shape (batch, features): class 1.
        p: the same sites as the model gives them: class 0.
        scale: the factor of each datum; a number or shape (batch,).
    """

    q: tuple[Tensor, ...]
    p: tuple[Tensor, ...]
    scale: float | Tensor


def concatenate_rows(parts: Iterable[Tensor], dtype: torch.dtype) -> Tensor:
    """Return the concatenated features of all parts, shape (batch, features).

    Args:
        parts: each of shape (batch, features of the part).
        dtype: the type of the result.
    """
    return torch.cat([part.to(dtype) for part in parts], 1)


def widest_dtype(parts: Sequence[Tensor]) -> torch.dtype:
    """Return the floating type that holds all parts: at least float32, also under automatic casts to a smaller type."""
    dtype = torch.float32
    for part in parts:
        if part.is_floating_point():
            dtype = torch.promote_types(dtype, part.dtype)
    return dtype
