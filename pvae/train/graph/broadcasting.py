"""Rewrites of a traced step that compute on smaller tensors, with the same bits.

Pyro expands parameters over particles and plates before it computes with them. Additions, multiplications and other
operations that IEEE 754 rounds exactly give the same bits on the tensor before its expansion.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import _extract_tensor_metadata

from pvae.checks import is_number

__all__ = ["compute_before_expansion"]

_aten = torch.ops.aten
#: Operations of one tensor, and of a tensor and a number.
_UNARY = {_aten.neg.default, _aten.abs.default, _aten.relu.default, _aten.sqrt.default, _aten.reciprocal.default}
#: Operations of two tensors that broadcast, or of a tensor and a number.
_BINARY = {_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor}
_WITH_NUMBER = _BINARY | {_aten.mul.Scalar, _aten.div.Scalar, _aten.add.Scalar, _aten.sub.Scalar}


def compute_before_expansion(graph: GraphModule) -> None:
    """Change a graph in place: operations use tensors before their expansion, if the result has the same bits.

    Args:
        graph: a graph of ATen operations without changes in place, with the metadata of a trace.
    """
    for node in list(graph.graph.nodes):
        if node.op == "call_function":
            _negate_after_sum(graph, node)
            _broadcast_arguments(node)
            _expand_afterwards(graph, node)


def _value(node: Any) -> Any:
    """Return the fake tensor that the trace has kept for a node; None for other arguments."""
    return node.meta.get("val") if isinstance(node, Node) else None


def _call(graph: GraphModule, target: Any, *args: Any) -> Node:
    """Return a new node with the metadata of its result."""
    node = graph.graph.call_function(target, args)
    values = map_arg(args, lambda source: source.meta["val"])
    value = target(*values)
    node.meta["val"] = value
    if isinstance(value, torch.Tensor):
        node.meta["tensor_meta"] = _extract_tensor_metadata(value)
    return node


def _is_expansion(node: Any) -> bool:
    """Return whether a node expands a tensor to more elements."""
    if not isinstance(node, Node) or node.target is not _aten.expand.default:
        return False
    value, source = _value(node), _value(node.args[0])
    return value is not None and source is not None and source.numel() < value.numel()


def _broadcast_arguments(node: Node) -> None:
    """Let an operation of two tensors broadcast its arguments by itself, if its result has the same shape."""
    if node.target not in _BINARY or len(node.args) != 2:
        return
    for position, other in ((0, 1), (1, 0)):
        beside = _value(node.args[other])
        while beside is not None and _is_expansion(node.args[position]):
            source = node.args[position].args[0]  # type: ignore[union-attr]
            if torch.broadcast_shapes(_value(source).shape, beside.shape) != _value(node).shape:
                break
            node.update_arg(position, source)


def _expand_afterwards(graph: GraphModule, node: Node) -> None:
    """Compute an operation of one tensor before its expansion."""
    rest = node.args[1:]
    is_square = node.target is _aten.pow.Tensor_Scalar and rest == (2,)
    is_with_number = node.target in _WITH_NUMBER and len(rest) == 1 and is_number(rest[0])
    if not (node.target in _UNARY or is_square or is_with_number) or not _is_expansion(node.args[0]) or node.kwargs:
        return
    if not all(user.target in _BINARY | _UNARY for user in node.users):
        return  # sums and functions such as log may round differently if elements share memory
    expansion: Any = node.args[0]
    with graph.graph.inserting_before(node):
        result = _call(graph, node.target, expansion.args[0], *rest)
        expanded = _call(graph, _aten.expand.default, result, *expansion.args[1:])
    node.replace_all_uses_with(expanded)


def _negate_after_sum(graph: GraphModule, node: Node) -> None:
    """Replace the sum of negated numbers by the negated sum."""
    source = node.args[0] if node.args else None
    if node.target is not _aten.sum.dim_IntList or not isinstance(source, Node) or node.kwargs:
        return
    if source.target is not _aten.neg.default or _value(source).stride() != _value(source.args[0]).stride():
        return
    with graph.graph.inserting_before(node):
        total = _call(graph, node.target, source.args[0], *node.args[1:])
        negated = _call(graph, _aten.neg.default, total)
    node.replace_all_uses_with(negated)
