"""The products of the libraries as operations of torch that a compiler calls without tracing them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from pvae.products.libraries import ATEN, PRODUCTS, PRODUCTS_IN_ROW, Product

__all__ = ["make_products_opaque"]

_NAMESPACE = "pvae_products"
#: The definitions of the operations; they exist as long as this object.
_LIBRARY = torch.library.Library(_NAMESPACE, "FRAGMENT")


def make_products_opaque(graph: GraphModule) -> dict[str, OpOverload]:
    """Replace the functions of the libraries in a graph by operations of torch with the same results, in place.

    A bias is added by a separate operation, because the compiler joins it with the operations that follow.

    Args:
        graph: a graph in which `pvae.products.replace_products` has replaced products.

    Returns:
        The operation of each library that the graph uses, by the name of the library.
    """
    names = {product: name for name, product in PRODUCTS_IN_ROW.items() if name != ATEN}
    used = {}
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in names:
            name = names[node.target]
            used[name] = _operation(name)
            _replace(graph, node, used[name])
    graph.recompile()
    return used


def _replace(graph: GraphModule, node: Node, operation: OpOverload) -> None:
    a, b, bias, _ = node.args
    with graph.graph.inserting_before(node):
        result = graph.graph.call_function(operation, (a, b))
        if bias is not None:
            result = graph.graph.call_function(torch.ops.aten.add.Tensor, (result, bias))
    node.replace_all_uses_with(result)
    graph.graph.erase_node(node)


@cache
def _operation(library: str) -> OpOverload:
    """Return the operation of a library, which is defined at first use."""
    product: Product = PRODUCTS[library]
    name = f"{library}_product"
    _LIBRARY.define(f"{name}(Tensor a, Tensor b) -> Tensor")

    def compute(a: Tensor, b: Tensor) -> Tensor:
        return product(a, b, None, None)

    def without_content(a: Tensor, b: Tensor) -> Tensor:
        return a.new_empty(a.shape[0], b.shape[1])

    _LIBRARY.impl(name, compute, "CPU")
    torch.library.register_fake(f"{_NAMESPACE}::{name}", without_content, lib=_LIBRARY)
    operation: OpOverload = getattr(getattr(torch.ops, _NAMESPACE), name).default
    return operation
