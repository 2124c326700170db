"""`ProductKind`: what decides which library computes a matrix product fastest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["ProductKind", "kind_of"]

#: Products of fewer multiplications are always computed by torch, because other libraries could gain little time.
_FEWEST_MULTIPLICATIONS = 10**6
#: Products of more multiplications count as smaller ones of the same form, because their time per multiplication is.
_MOST_MULTIPLICATIONS = 2**27
_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class ProductKind:
    """The shapes, dtype and memory layouts of a product a @ b, or of bias + a @ b, on the CPU.

    Attributes:
        rows: the number of rows of a.
        inner: the number of columns of a and of rows of b.
        columns: the number of columns of b.
        dtype: the dtype of a and b, float32 or float64.
        left: "n" if the rows of a are contiguous in memory, "t" if its columns are.
        right: the same for b.
        has_bias: whether a bias of shape (columns,) is added.
        threads: the number of threads of torch.
    """

    rows: int
    inner: int
    columns: int
    dtype: torch.dtype
    left: str
    right: str
    has_bias: bool
    threads: int

    def __str__(self) -> str:
        """Return the kind as one word, such as ``mm-128x784x400-float32-nt-1``."""
        operation = "addmm" if self.has_bias else "mm"
        dtype = str(self.dtype).removeprefix("torch.")
        sizes = f"{self.rows}x{self.inner}x{self.columns}"
        return f"{operation}-{sizes}-{dtype}-{self.left}{self.right}-{self.threads}"


def kind_of(a: Any, b: Any, *, has_bias: bool = False) -> ProductKind | None:
    """Return the kind of a product; None if only torch's own product computes it.

    That is the case off the CPU, for other dtypes, for small and empty products, and for matrices of which neither the
    rows nor the columns are contiguous in memory.

    Args:
        a: shape (rows, inner); a tensor, or an object with its ``shape``, ``stride()``, ``dtype`` and ``device``.
        b: shape (inner, columns).
        has_bias: whether a bias of shape (columns,) is added.
    """
    if a.device.type != "cpu" or b.device.type != "cpu" or a.dtype not in _DTYPES or b.dtype != a.dtype:
        return None
    rows, inner, columns = a.shape[0], a.shape[1], b.shape[1]
    if rows * inner * columns < _FEWEST_MULTIPLICATIONS:
        return None
    left, right = _layout(a), _layout(b)
    if left is None or right is None:
        return None
    rows, inner, columns = _limited(rows, inner, columns)
    return ProductKind(rows, inner, columns, a.dtype, left, right, has_bias, torch.get_num_threads())


def _layout(matrix: Tensor) -> str | None:
    """Return "n" for contiguous rows, "t" for contiguous columns, None for neither; rows may be apart in memory."""
    rows, columns = matrix.shape
    row_stride, column_stride = matrix.stride()
    if (columns == 1 or column_stride == 1) and (rows == 1 or row_stride >= columns):
        return "n"
    if (rows == 1 or row_stride == 1) and (columns == 1 or column_stride >= rows):
        return "t"
    return None


def _limited(*sizes: int) -> tuple[int, int, int]:
    """Return the sizes with the largest one halved until the product is not too large."""
    limited = list(sizes)
    while limited[0] * limited[1] * limited[2] > _MOST_MULTIPLICATIONS:
        largest = limited.index(max(limited))
        limited[largest] = (limited[largest] + 1) // 2
    return limited[0], limited[1], limited[2]
