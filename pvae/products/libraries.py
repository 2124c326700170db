"""The libraries that can compute a matrix product on the CPU: torch's own product, oneDNN and the BLAS of NumPy.

torch sends float32 and float64 products to MKL, which is slow on processors of other makers than Intel. The same wheel
of torch contains oneDNN, and NumPy contains another BLAS, which uses the memory of the tensors without a copy.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import threadpoolctl
import torch
from torch import Tensor

from pvae.products.numpy_products import multiply_by_numpy, multiply_in_blocks, warnings_silenced

__all__ = [
    "ATEN",
    "BLOCKS",
    "BLOCKS_OF_SCIPY",
    "EACH_ALONE",
    "ONEDNN",
    "PRODUCTS",
    "PRODUCTS_IN_COMPILED_CODE",
    "PRODUCTS_IN_ROW",
    "TRANSPOSED_BLOCKS",
    "BatchedProduct",
    "Product",
    "blas_of",
    "is_offered",
]

#: The name of torch's own product.
ATEN = "aten"
#: The name of the library without a batched product.
ONEDNN = "onednn"
#: The name of the BLAS of NumPy for products that are computed in parts.
BLOCKS = "blocks"
#: The names of the ways to compute two products with the same matrix in a loop, as in EM: each by the fastest library
#: for it, or both by the BLAS of SciPy in blocks, where the left matrix of the second product may be transposed first.
EACH_ALONE, BLOCKS_OF_SCIPY, TRANSPOSED_BLOCKS = "each alone", "blocks of SciPy", "transposed blocks of SciPy"

Product = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
#: Returns the products of two batches of matrices; like `torch.bmm`, it takes memory for the result as ``out``, or
#: None.
BatchedProduct = Callable[..., Tensor]


def _by_aten(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """Return bias + a @ b by torch."""
    if a.dim() == 3:
        return torch.bmm(a, b) if out is None else torch.bmm(a, b, out=out)
    if bias is None:
        return torch.mm(a, b) if out is None else torch.mm(a, b, out=out)
    return torch.addmm(bias, a, b) if out is None else torch.addmm(bias, a, b, out=out)


def _by_onednn(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """Return bias + a @ b by oneDNN, which has no batched product, and needs at least one term."""
    if a.shape[1] == 0:
        return _by_aten(a, b, bias, out)
    result = torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
    return result if out is None else out.copy_(result)


def _by_numpy_alone(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """Return bias + a @ b by the BLAS of NumPy; NumPy may warn of infinite and undefined numbers."""
    if out is None:
        out = a.new_empty((*a.shape[:-1], b.shape[-1]) if a.dim() > 2 else (a.shape[0], b.shape[1]))
    multiply_by_numpy(a, b, out)
    return out if bias is None else out.add_(bias)


def _by_numpy(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """Return bias + a @ b by the BLAS of NumPy, without its warnings."""
    with warnings_silenced():
        return _by_numpy_alone(a, b, bias, out)


def _in_blocks_alone(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """Return bias + a @ b by the BLAS of NumPy, in parts that are small enough for the fast code of OpenBLAS."""
    result = multiply_in_blocks(a.detach(), b.detach(), out)
    return result if bias is None else result.add_(bias)


def _in_blocks(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """Return the same without the warnings of NumPy."""
    with warnings_silenced():
        return _in_blocks_alone(a, b, bias, out)


#: name of a library -> its function of a, b, bias or None, and the tensor for the result or None
PRODUCTS: dict[str, Product] = {ATEN: _by_aten, ONEDNN: _by_onednn, "numpy": _by_numpy, BLOCKS: _in_blocks}
#: The same for many successive products, which the caller runs in one context of `warnings_silenced`.
PRODUCTS_IN_ROW: dict[str, Product] = {**PRODUCTS, "numpy": _by_numpy_alone, BLOCKS: _in_blocks_alone}


def _into_memory(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """Return a @ b by the BLAS of NumPy in the memory `out`; the compiler joins the bias with the next operations."""
    if out is None:
        return _by_numpy_alone(a, b, None, None)
    multiply_by_numpy(a, b, out)
    return out


def _by_onednn_alone(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """Return a @ b by oneDNN, which allocates memory itself; the compiler joins the bias with the next operations."""
    return _by_onednn(a, b, None, None)


#: The same for compiled code: not all add the bias or use the memory for the result.
PRODUCTS_IN_COMPILED_CODE: dict[str, Product] = {ATEN: _by_aten, ONEDNN: _by_onednn_alone, "numpy": _into_memory}


def is_offered(library: str, dtype: torch.dtype) -> bool:
    """Return whether a library computes products of a dtype on this machine, with the same number of threads as torch.

    Args:
        library: a name of `PRODUCTS`, or `BLOCKS_OF_SCIPY`.
        dtype: float32 or float64.
    """
    if library == ONEDNN:
        is_present = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        return is_present and dtype == torch.float32 and bool(torch.backends.mkldnn.enabled)
    if library in ("numpy", BLOCKS, BLOCKS_OF_SCIPY):
        blas = blas_of("scipy" if library == BLOCKS_OF_SCIPY else "numpy")
        is_wanted = library == "numpy" or (blas is not None and blas.internal_api == "openblas")
        return is_wanted and blas is not None and blas.num_threads == torch.get_num_threads()
    return True


@cache
def blas_of(package: str) -> Any:
    """Return the controller of the BLAS that a package uses; None if it is not known.

    Args:
        package: "numpy" or "scipy".
    """
    if package == "scipy":
        importlib.import_module("scipy.linalg.blas")  # loads its BLAS, which takes a tenth of a second
    controllers = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    # both call the file itself libscipy_openblas; its folder is "numpy.libs" or "scipy.libs", or in the package
    own = [
        controller
        for controller in controllers
        if any(part.split(".")[0] == package for part in Path(controller.filepath).parent.parts[-2:])
    ]
    # packages of another origin than PyPI share one BLAS
    found = own or controllers
    return found[0] if len(found) == 1 else None
