"""Join small matrix products of a graph that have a common factor or are added.

The two heads of an encoder are two products with the same left factor; their gradients are two products with the same
right factor, and a sum of two products. The call of a library takes as long as a small product, so that one product of
joined matrices takes less time. The sums of a joined product are rounded in another order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

__all__ = ["join_products"]

_aten = torch.ops.aten
_PRODUCTS = (_aten.mm.default, _aten.addmm.default)
#: Matrices are joined along dimensions of at most this number of entries, because joining copies them.
_LARGEST_PART = 64


def join_products(graph: GraphModule) -> int:
    """Join small products ``aten.mm`` and ``aten.addmm`` of a graph in place.

    Args:
        graph: a graph of ATen operations without gradients; its nodes have the metadata of a trace.

    Returns:
        The number of products that were saved.
    """
    saved = _join_sums(graph) + _join_with_same_factor(graph, shared=0) + _join_with_same_factor(graph, shared=1)
    if saved:
        graph.graph.lint()
        graph.recompile()
    return saved


def _join_sums(graph: GraphModule) -> int:
    """Replace a1 @ b1 + a2 @ b2 by [a1, a2] @ [b1; b2]."""
    saved = 0
    for node in graph.graph.find_nodes(op="call_function", target=_aten.add.Tensor):
        parts = list(node.args)
        if node.kwargs or not all(_is_used_once(part) for part in parts) or not _are_alike(*parts):
            continue
        lefts, rights = ([part.args[side] for part in parts] for side in (0, 1))
        if not all(_length(left, 1) <= _LARGEST_PART for left in lefts):
            continue
        with graph.graph.inserting_before(node):
            product = _call(graph, _aten.mm.default, _joined(graph, lefts, 1), _joined(graph, rights, 0))
        node.replace_all_uses_with(product)
        for replaced in (node, *parts):
            graph.graph.erase_node(replaced)
        saved += 1
    return saved


def _is_used_once(part: Any) -> bool:
    """Return whether an argument is a product without a bias that no other node uses."""
    return isinstance(part, Node) and part.target is _aten.mm.default and len(part.users) == 1


def _are_alike(one: Node, other: Node) -> bool:
    """Return whether two products have the same shape and dtype, so that their sum does not broadcast or convert."""
    first, second = one.meta["val"], other.meta["val"]
    return bool(one is not other and first.shape == second.shape and first.dtype == second.dtype)


def _join_with_same_factor(graph: GraphModule, shared: int) -> int:
    """Join products with the same left factor, a @ [b1, b2], if `shared` is 0; or right factor, [a1; a2] @ b, if 1."""
    groups: dict[tuple[Any, ...], list[Node]] = defaultdict(list)
    for node in graph.graph.nodes:
        if node.target in _PRODUCTS and not node.kwargs and _is_joined_kind(node, shared):
            groups[node.target, node.args[-2 + shared]].append(node)
    saved = 0
    for members in groups.values():
        if len(members) > 1 and (place := _place_between(graph, members)) is not None:
            _join(graph, members, shared, place)
            saved += len(members) - 1
    return saved


def _place_between(graph: GraphModule, members: Sequence[Node]) -> Node | None:
    """Return the first node that uses one of the products; None if not all of their factors are known before it."""
    order = {node: index for index, node in enumerate(graph.graph.nodes)}
    first_user = min((user for member in members for user in member.users), key=order.__getitem__)
    last_factor = max(order[source] for member in members for source in member.all_input_nodes)
    return first_user if last_factor < order[first_user] else None


def _is_joined_kind(node: Node, shared: int) -> bool:
    """Return whether a product may be joined with others: its separate factor is small, and a bias is one row."""
    if not node.users or _length(node.args[-1 - shared], 1 - shared) > _LARGEST_PART:
        return False
    return node.target is _aten.mm.default or (shared == 0 and node.args[0].meta["val"].dim() == 1)  # type: ignore[union-attr]


def _join(graph: GraphModule, members: Sequence[Node], shared: int, place: Node) -> None:
    """Replace products by parts of one product, which is inserted before `place`."""
    dim = 1 - shared
    with graph.graph.inserting_before(place):
        joined = _joined(graph, [member.args[-1 - shared] for member in members], dim)
        factors = [members[0].args[-2], joined] if shared == 0 else [joined, members[0].args[-1]]
        bias = [_joined(graph, [member.args[0] for member in members], 0)] if len(members[0].args) == 3 else []
        product = _call(graph, members[0].target, *bias, *factors)
        start = 0
        for member in members:
            end = start + _length(member, dim)
            part = _call(graph, _aten.slice.Tensor, product, dim, start, end)
            member.replace_all_uses_with(part)
            graph.graph.erase_node(member)
            start = end


def _length(node: Any, dim: int) -> int:
    return int(node.meta["val"].shape[dim])


def _joined(graph: GraphModule, nodes: Sequence[Any], dim: int) -> Node:
    """Return the node of matrices next to each other; transposed matrices are joined before they are transposed."""
    if all(node.target is _aten.t.default for node in nodes):
        return _call(graph, _aten.t.default, _joined(graph, [node.args[0] for node in nodes], 1 - dim))
    return _call(graph, _aten.cat.default, list(nodes), dim)


def _call(graph: GraphModule, target: Any, *args: Any) -> Node:
    """Add a node with the metadata of a trace."""
    node = graph.graph.call_function(target, args)
    values = torch.fx.node.map_arg(args, lambda source: source.meta["val"])
    node.meta["val"] = target(*values)
    return node
