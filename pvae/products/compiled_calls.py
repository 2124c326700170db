"""Direct calls of the libraries in code that inductor, the compiler of torch, has written.

An operation of torch that is written in Python takes about 10 microseconds for each call, as long as a small product.
So this module makes the compiler call the functions of the libraries directly, like `torch.mm`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from pvae.products.libraries import ONEDNN
from pvae.products.numpy_products import multiply_by_numpy

__all__ = ["call_directly"]


def _numpy_product(a: Tensor, b: Tensor, *, out: Tensor) -> None:
    """Write a @ b to `out`, shape (rows, columns), by the BLAS of NumPy."""
    multiply_by_numpy(a, b, out)


def _onednn_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b, shape (rows, columns), by oneDNN."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(a, b.t(), None, "none", [], "")
    return product


def call_directly(operations: Mapping[str, OpOverload]) -> None:
    """Make inductor call the libraries directly if a graph has their operations.

    The caller of the compiled code needs to silence the warnings of NumPy about infinite and undefined numbers.

    Args:
        operations: the operation of each library, from `make_products_opaque`.

    Raises:
        Exception: if this version of inductor works differently. It then calls the operations.
    """
    from torch._inductor import lowering  # its import is slow, and few trainings need it

    for name, operation in operations.items():
        if operation not in lowering.lowerings:
            lowering.register_lowering(operation, type_promotion_kind=None)(_lowering_for(name))


def _lowering_for(library: str) -> Callable[[Any, Any], Any]:
    """Return the function with which inductor translates the operation of a library to a call."""
    from torch._inductor.kernel.mm_common import mm_args
    from torch._inductor.select_algorithm import ExternKernelChoice

    kernel = _onednn_product if library == ONEDNN else _numpy_product
    choice = ExternKernelChoice(kernel, name=f"pvae_{library}_product", has_out_variant=library != ONEDNN)

    def lower(a: Any, b: Any) -> Any:
        _, _, _, layout, a, b = mm_args(a, b)
        return choice.bind((a, b), layout).output_node()

    return lower
