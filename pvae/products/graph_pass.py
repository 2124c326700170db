"""Replace the matrix products of a traced graph by products of the fastest libraries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pvae.products.kind_of_product import FEWEST_MULTIPLICATIONS, ProductKind, kind_of
from pvae.products.libraries import ATEN, PRODUCTS_IN_ROW
from pvae.products.product_choices import ProductChoices

__all__ = ["replace_products"]

_aten = torch.ops.aten
#: Compiled code calls the libraries in less time, so that another library is useful for smaller products there.
_FEWEST_MULTIPLICATIONS_IN_COMPILED_CODE = 2 * 10**4


def replace_products(
    graph: GraphModule, products: ProductChoices, *, is_compiled: bool = False
) -> frozenset[ProductKind]:
    """Replace the products ``aten.mm`` and ``aten.addmm`` of a graph in place if another library is faster.

    Args:
        graph: a graph of ATen operations without gradients; its nodes have the metadata of a trace.
        products: the choices; kinds of products without a choice are timed.
        is_compiled: whether the graph is to be compiled, so that another library may be the fastest.

    Returns:
        The kinds of the products that were replaced; the graph is unchanged if there are none.
    """
    fewest = _FEWEST_MULTIPLICATIONS_IN_COMPILED_CODE if is_compiled else FEWEST_MULTIPLICATIONS
    kinds = {node: kind for node in graph.graph.nodes if (kind := _kind_of_node(node, fewest)) is not None}
    if is_compiled:
        kinds = {node: replace(kind, is_compiled=True) for node, kind in kinds.items()}
    libraries = products.choose(kinds.values())
    replaced = {node: kind for node, kind in kinds.items() if libraries[kind] != ATEN}
    for node, kind in replaced.items():
        _replace(graph, node, libraries[kind])
    if replaced:
        graph.graph.lint()
        graph.recompile()
    return frozenset(replaced.values())


def _kind_of_node(node: Node, fewest: int) -> ProductKind | None:
    """Return the kind of the product that a node computes.

    None for other nodes, and for products that only torch computes.
    """
    if node.op != "call_function" or node.kwargs:
        return None
    if node.target is _aten.mm.default and len(node.args) == 2:
        a, b = map(_value, node.args)
        return None if a is None or b is None else kind_of(a, b, fewest=fewest)
    if node.target is _aten.addmm.default and len(node.args) == 3:
        bias, a, b = map(_value, node.args)
        if bias is None or a is None or b is None or bias.shape != b.shape[1:] or bias.dtype != a.dtype:
            return None
        return kind_of(a, b, has_bias=True, fewest=fewest)
    return None


def _value(source: Any) -> Tensor | None:
    """Return the tensor without content that the trace has for a node; None if there is none."""
    value = source.meta.get("val") if isinstance(source, Node) else None
    return value if isinstance(value, Tensor) else None


def _replace(graph: GraphModule, node: Node, library: str) -> None:
    *bias, a, b = node.args
    with graph.graph.inserting_before(node):
        product = graph.graph.call_function(PRODUCTS_IN_ROW[library], (a, b, bias[0] if bias else None, None))
    product.meta = dict(node.meta)
    node.replace_all_uses_with(product)
    graph.graph.erase_node(node)
