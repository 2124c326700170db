"""The products of the libraries as operations of torch that a compiler calls without looking into them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule

from pvae.products.libraries import ATEN, PRODUCTS, Product

__all__ = ["make_products_opaque"]

_NAMESPACE = "pvae_products"
#: The definitions of the operations, which exist as long as this object.
_LIBRARY = torch.library.Library(_NAMESPACE, "FRAGMENT")


def make_products_opaque(graph: GraphModule) -> None:
    """Replace the functions of the libraries in a graph by operations of torch with the same results, in place.

    Args:
        graph: a graph in which `pvae.products.replace_products` has replaced products.
    """
    names = {product: name for name, product in PRODUCTS.items() if name != ATEN}
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target in names:
            node.target = _operation(names[node.target])
            node.args = node.args[:3]  # the compiler allocates the result
    graph.recompile()


@cache
def _operation(library: str) -> OpOverload:
    """Return the operation of a library, which is defined at first use."""
    product: Product = PRODUCTS[library]
    name = f"{library}_product"
    _LIBRARY.define(f"{name}(Tensor a, Tensor b, Tensor? bias) -> Tensor")

    def compute(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        return product(a, b, bias, None)

    def without_content(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        return a.new_empty(a.shape[0], b.shape[1])

    _LIBRARY.impl(name, compute, "CPU")
    torch.library.register_fake(f"{_NAMESPACE}::{name}", without_content, lib=_LIBRARY)
    operation: OpOverload = getattr(getattr(torch.ops, _NAMESPACE), name).default
    return operation
