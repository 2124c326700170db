"""The libraries that can compute a matrix product on the CPU: torch's own product, oneDNN and the BLAS of NumPy.

torch sends float32 and float64 products to MKL, which is slow on processors of other makers than Intel. The same wheel
of torch contains oneDNN, and NumPy brings a BLAS of its own, which works on the memory of the tensors without a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import threadpoolctl
import torch
from torch import Tensor

__all__ = ["ATEN", "ONEDNN", "PRODUCTS", "BatchedProduct", "Product", "blas_of_numpy", "is_offered"]

#: The name of torch's own product.
ATEN = "aten"
#: The name of the library that has no batched product.
ONEDNN = "onednn"

Product = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
#: Returns the products of two batches of matrices; as `torch.bmm`, it takes memory for the result as ``out``, or None.
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


def _by_numpy(a: Tensor, b: Tensor, bias: Tensor | None, out: Tensor | None) -> Tensor:
    """Return bias + a @ b by the BLAS of NumPy, which writes into the memory of a tensor."""
    result = torch.empty(*a.shape[:-1], b.shape[-1], dtype=a.dtype) if out is None else out
    with np.errstate(all="ignore"):  # torch does not warn of infinite and undefined numbers either
        np.matmul(a.detach().numpy(), b.detach().numpy(), out=result.numpy())
    return result if bias is None else result.add_(bias)


#: name of a library -> its function of a, b, bias or None, and the tensor for the result or None
PRODUCTS: dict[str, Product] = {ATEN: _by_aten, ONEDNN: _by_onednn, "numpy": _by_numpy}


def is_offered(library: str, dtype: torch.dtype) -> bool:
    """Return whether a library computes products of a dtype on this machine, with as many threads as torch.

    Args:
        library: a name of `PRODUCTS`.
        dtype: float32 or float64.
    """
    if library == ONEDNN:
        is_present = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        return is_present and dtype == torch.float32 and bool(torch.backends.mkldnn.enabled)
    if library == "numpy":
        blas = blas_of_numpy()
        return blas is not None and blas.num_threads == torch.get_num_threads()
    return True


@cache
def blas_of_numpy() -> Any:
    """Return the controller of the BLAS that NumPy uses; None if it is not known."""
    controllers = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    of_numpy = [controller for controller in controllers if "numpy" in controller.filepath]
    # a NumPy of another origin shares its BLAS with SciPy
    found = of_numpy or controllers
    return found[0] if len(found) == 1 else None
