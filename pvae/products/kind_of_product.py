"""`ProductKind`: the properties of a matrix product on which its fastest library depends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["FEWEST_MULTIPLICATIONS", "ProductKind", "kind_of"]

#: Products of fewer multiplications are always computed by torch, because other libraries could save little time.
FEWEST_MULTIPLICATIONS = 10**6
#: Products of more multiplications count as smaller products of the same form: their times per multiplication agree.
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
        batch: the number of products of a batched product; 0 for one product of two matrices.
        is_compiled: whether code of inductor calls the library, with memory for the result, and adds the bias itself.
    """

    rows: int
    inner: int
    columns: int
    dtype: torch.dtype
    left: str
    right: str
    has_bias: bool
    threads: int
    batch: int = 0
    is_compiled: bool = False

    def __str__(self) -> str:
        """Return the kind as one word, such as ``mm-128x784x400-float32-nt-1``."""
        operation = "addmm" if self.has_bias else f"bmm{self.batch}" if self.batch else "mm"
        dtype = str(self.dtype).removeprefix("torch.")
        sizes = f"{self.rows}x{self.inner}x{self.columns}"
        prefix = "compiled-" if self.is_compiled else ""
        return f"{prefix}{operation}-{sizes}-{dtype}-{self.left}{self.right}-{self.threads}"


def kind_of(a: Any, b: Any, *, has_bias: bool = False, fewest: int = FEWEST_MULTIPLICATIONS) -> ProductKind | None:
    """Return the kind of a product; None if only torch's own product computes it.

    This applies to other devices than the CPU, other dtypes, small and empty products, and matrices with neither rows
    nor columns contiguous in memory.

    Args:
        a: shape (rows, inner); a tensor, or an object with its ``shape``, ``stride()``, ``dtype`` and ``device``. For a
            batched product, both have one more dimension in front.
        b: shape (inner, columns).
        has_bias: whether a bias of shape (columns,) is added.
        fewest: a product of fewer multiplications counts as small.
    """
    if a.device.type != "cpu" or b.device.type != "cpu" or a.dtype not in _DTYPES or b.dtype != a.dtype:
        return None
    is_batched = len(a.shape) == 3
    batch, rows, inner, columns = a.shape[0] if is_batched else 1, a.shape[-2], a.shape[-1], b.shape[-1]
    if batch * rows * inner * columns < fewest:
        return None
    left, right = _layout(a), _layout(b)
    if left is None or right is None:
        return None
    batch, rows, inner, columns = _limited(batch, rows, inner, columns)
    threads = torch.get_num_threads()
    return ProductKind(rows, inner, columns, a.dtype, left, right, has_bias, threads, batch if is_batched else 0)


def _layout(matrix: Tensor) -> str | None:
    """Return "n" for contiguous rows, "t" for contiguous columns, None for neither; rows may have gaps between them."""
    rows, columns = matrix.shape[-2:]
    row_stride, column_stride = matrix.stride()[-2:]
    if (columns == 1 or column_stride == 1) and (rows == 1 or row_stride >= columns):
        return "n"
    if (rows == 1 or row_stride == 1) and (columns == 1 or column_stride >= rows):
        return "t"
    return None


def _limited(*sizes: int) -> list[int]:
    """Return the sizes, with the largest size halved until the product is not too large."""
    limited = list(sizes)
    while math.prod(limited) > _MOST_MULTIPLICATIONS:
        largest = limited.index(max(limited))
        limited[largest] = (limited[largest] + 1) // 2
    return limited
