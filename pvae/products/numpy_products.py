"""Matrix products by the BLAS of NumPy, which uses the memory of the tensors without a copy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["MOST_IN_BLOCK", "multiply_by_numpy", "multiply_in_blocks", "warnings_silenced"]

#: OpenBLAS computes products of at most this number of multiplications with code that does not copy the matrices.
MOST_IN_BLOCK = 10**6


def multiply_by_numpy(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write a @ b to `out` by the BLAS of NumPy, which uses the memory of the tensors; without gradients.

    Args:
        a: shape (rows, inner), or (batch, rows, inner).
        b: shape (inner, columns), or (batch, inner, columns).
        out: shape (rows, columns), or (batch, rows, columns).
    """
    # numpy() raises an error for parameters, and detach() of each tensor would take as long as a small product
    left = a.detach().numpy() if a.requires_grad else a.numpy()
    right = b.detach().numpy() if b.requires_grad else b.numpy()
    np.matmul(left, right, out=out.numpy())


def multiply_in_blocks(a: Tensor, b: Tensor, out: Tensor | None) -> Tensor:
    """Return a @ b by the BLAS of NumPy in parts of at most `MOST_IN_BLOCK` multiplications; without gradients.

    OpenBLAS computes small products with other code, which is up to 1.5 times as fast for matrices of few columns. The
    longest of the three dimensions is divided. If it is the inner dimension, the products of the parts are added.

    Args:
        a: shape (rows, inner).
        b: shape (inner, columns).
        out: shape (rows, columns), for the result; None allocates it.
    """
    if out is None:
        out = a.new_empty((a.shape[0], b.shape[1]))
    rows, inner, columns = a.shape[0], a.shape[1], b.shape[1]
    longest = max(rows, inner, columns)
    size = MOST_IN_BLOCK * longest // max(rows * inner * columns, 1)
    if size < 1 or size >= longest:
        multiply_by_numpy(a, b, out)
    elif longest == columns:
        _multiply_columns(a, b, out, size)
    elif longest == rows:
        _multiply_columns(b.mT, a.mT, out.mT, size)
    else:
        _add_inner_parts(a, b.contiguous(), out, size)
    return out


def _even_size(length: int, most: int) -> tuple[int, int]:
    """Return the size and the number of parts of a length, of at most `most` each; a smaller part may be left over."""
    size = -(-length // -(-length // most))
    return size, length // size


def _multiply_columns(a: Tensor, b: Tensor, out: Tensor, most: int) -> None:
    """Write a @ b to `out`, part by part of the columns."""
    size, count = _even_size(b.shape[1], most)
    parts = size * count
    left, right, result = a.numpy(), b.numpy(), out.numpy()
    blocks = right[:, :parts].reshape(len(right), count, size).swapaxes(0, 1)
    np.matmul(left, blocks, out=result[:, :parts].reshape(len(left), count, size).swapaxes(0, 1))
    if parts < b.shape[1]:
        np.matmul(left, right[:, parts:], out=result[:, parts:])


def _add_inner_parts(a: Tensor, b: Tensor, out: Tensor, most: int) -> None:
    """Write a @ b to `out`, as the sum over the parts of the inner dimension."""
    size, count = _even_size(a.shape[1], most)
    parts = size * count
    left, right = a.numpy(), b.numpy()
    blocks = left[:, :parts].reshape(len(left), count, size).swapaxes(0, 1)
    products = np.matmul(blocks, right[:parts].reshape(count, size, right.shape[1]))
    if parts < a.shape[1]:
        products[0] += left[:, parts:] @ right[parts:]
    torch.sum(torch.from_numpy(products), 0, out=out)


def warnings_silenced() -> np.errstate:
    """Return a context in which NumPy, like torch, does not warn of infinite and undefined numbers."""
    return np.errstate(all="ignore")
