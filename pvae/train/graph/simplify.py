"""Simplification of a traced training step: fewer operations with the same results.

Pyro's distributions broadcast, expand and sum in a general way. Most of these operations do nothing once the shapes are
known. Each rewrite keeps every bit of the results; the first call of a graph checks this.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pvae.checks import is_number
from pvae.train.graph.broadcasting import compute_before_expansion

__all__ = ["simplify"]

_aten = torch.ops.aten
#: Constants with more elements than this are computed at each call.
_LARGEST_CONSTANT = 2**22
_RESHAPES = {_aten.expand.default, _aten.view.default, _aten._unsafe_view.default, _aten.reshape.default}
#: Operations that return filled tensors; their results depend on the shapes of their arguments only.
_FILLS = {
    _aten.zeros.default,
    _aten.ones.default,
    _aten.full.default,
    _aten.zeros_like.default,
    _aten.ones_like.default,
    _aten.full_like.default,
    _aten.new_zeros.default,
    _aten.new_ones.default,
    _aten.new_full.default,
    _aten.scalar_tensor.default,
}


def simplify(graph: GraphModule) -> None:
    """Remove operations that do not change a result under ``no_grad``, in place. All random draws remain.

    Args:
        graph: a graph of ATen operations, with the metadata of a trace with real tensors.
    """
    for node in list(graph.graph.nodes):
        _replace_in_place_operation(graph, node)
    if not any(_mutates(node) for node in graph.graph.nodes):
        for node in list(graph.graph.nodes):
            _bypass_identity(node)
        _merge_equal_nodes(graph)
        compute_before_expansion(graph)
        _merge_equal_nodes(graph)
        _fold_constants(graph)
        for node in list(graph.graph.nodes):
            _bypass_identity(node)
            _draw_by_randn(graph, node)
    _copy_shared_outputs(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _shape(node: Any) -> tuple[int, ...] | None:
    """Return the shape of a node's result; None if it is not a tensor."""
    meta = node.meta.get("tensor_meta") if isinstance(node, Node) else None
    return tuple(meta.shape) if meta is not None else None


def _has_shape_and_dtype_of(node: Node, source: Any) -> bool:
    """Return whether the results of two nodes have the same shape and dtype."""
    if _shape(node) is None or _shape(node) != _shape(source):
        return False
    return bool(node.meta["tensor_meta"].dtype == source.meta["tensor_meta"].dtype)


def _is_identity(node: Node) -> bool:
    """Return whether a node returns its first argument: a reshape to the same shape, x + 0, x * 1, x / 1 or x ** 1."""
    target, source = node.target, node.args[0]
    if target in (_aten.detach.default, _aten.alias.default):
        return True
    if not isinstance(source, Node) or not _has_shape_and_dtype_of(node, source):
        return False
    if target in _RESHAPES:
        return True
    second = node.args[1] if len(node.args) > 1 else None
    if not is_number(second) or node.kwargs:
        return False
    if target in (_aten.add.Tensor, _aten.sub.Tensor, _aten.add.Scalar, _aten.sub.Scalar):
        return second == 0
    identity_at_one = (
        _aten.mul.Tensor,
        _aten.mul.Scalar,
        _aten.div.Tensor,
        _aten.div.Scalar,
        _aten.pow.Tensor_Scalar,
    )
    return target in identity_at_one and second == 1


def _bypass_identity(node: Node) -> None:
    """Let the users of an identity, or of a second transposition, use the source instead."""
    if node.op != "call_function" or not node.args:
        return
    source = node.args[0]
    if node.target is _aten.t.default and isinstance(source, Node) and source.target is _aten.t.default:
        node.replace_all_uses_with(source.args[0])  # type: ignore[arg-type]
    elif _is_identity(node):
        node.replace_all_uses_with(source)  # type: ignore[arg-type]


def _schema(node: Node) -> Any:
    """Return the schema of a node's operation; None if it has none."""
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None


def _is_view(node: Node) -> bool:
    """Return whether the result of a node may share memory with its first argument."""
    schema = _schema(node)
    aliases = () if schema is None else (result.alias_info for result in schema.returns)
    return node.target in _RESHAPES or any(alias is not None and not alias.is_write for alias in aliases)


def _fills_fresh_memory(node: Node) -> bool:
    """Return whether a node fills memory that only it uses, as in ``empty(...).normal_()``."""
    source = node.args[0] if node.args else None
    name = _schema(source).name if isinstance(source, Node) and _schema(source) is not None else ""
    return "::empty" in name and len(source.users) == 1  # type: ignore[union-attr]


def _mutates(node: Node) -> bool:
    """Return whether a node changes a tensor in place; a node may then have other results at another position."""
    schema = _schema(node)
    if schema is None:
        return node.op in ("call_module", "call_method")
    # batch normalisation updates its running averages, although its schema does not declare it
    return (schema.is_mutable and not _fills_fresh_memory(node)) or "batch_norm" in schema.name


def _replace_in_place_operation(graph: GraphModule, node: Node) -> None:
    """Replace ``a.add_(b)`` by ``a.add(b)`` if the graph computes `a` itself and no view of it exists."""
    source = node.args[0] if node.args else None
    if not isinstance(source, Node) or source.op != "call_function" or _fills_fresh_memory(node):
        return
    out_of_place = _out_of_place_operation(node)
    is_own_result = _is_pure(source) or _fills_fresh_memory(source)
    has_views = _is_view(source) or any(map(_is_view, source.users))
    if out_of_place is None or not is_own_result or has_views:
        return
    order = {member: number for number, member in enumerate(graph.graph.nodes)}
    with graph.graph.inserting_before(node):
        result = graph.graph.call_function(out_of_place, node.args, node.kwargs)
    result.meta = dict(node.meta)
    source.replace_all_uses_with(result, lambda user: user is not result and order.get(user, -1) > order[node])
    node.replace_all_uses_with(result)
    graph.graph.erase_node(node)


def _out_of_place_operation(node: Node) -> Any:
    """Return the operation that computes a new tensor instead of a change in place; None if there is none."""
    schema = _schema(node)
    if schema is None or not schema.is_mutable:
        return None
    if torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
        return None
    name, _, overload = node.target.name().removeprefix("aten::").partition(".")  # type: ignore[union-attr]
    packet = getattr(_aten, name.removesuffix("_"), None)
    return getattr(packet, overload or "default", None)


def _is_pure(node: Node) -> bool:
    """Return whether the result of a node depends on its arguments only."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    is_random = torch.Tag.nondeterministic_seeded in target.tags or "rand" in target.name()
    is_uninitialised = "empty" in target.name()
    return target.namespace == "aten" and not (is_random or is_uninitialised or target._schema.is_mutable)


def _argument_key(value: Any) -> Any:
    """Return a hashable value for an argument; it contains the type, because 1, 1.0 and True are equal."""
    if isinstance(value, list | tuple):
        return tuple(_argument_key(element) for element in value)
    return value if isinstance(value, Node) else (type(value), repr(value))


def _node_key(graph: GraphModule, node: Node) -> Any:
    """Return a value that is equal for nodes with equal results; None for a node that must not be merged."""
    if node.op == "get_attr":
        return id(getattr(graph, str(node.target)))
    if _is_pure(node):
        keywords = tuple(sorted((name, _argument_key(value)) for name, value in node.kwargs.items()))
        return (node.target, _argument_key(node.args), keywords)
    return None


def _merge_equal_nodes(graph: GraphModule) -> None:
    """Compute a result only once if several nodes compute it."""
    first_nodes: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        key = _node_key(graph, node)
        if key is None:
            continue
        first = first_nodes.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.graph.erase_node(node)


def _fold_constants(graph: GraphModule) -> None:
    """Compute once the results that depend on no input and no parameter, such as filled tensors and literals."""
    constants: dict[Node, Tensor] = {}
    for node in list(graph.graph.nodes):
        value = _constant(graph, node, constants)
        if value is not None:
            constants[node] = value
    for node, value in constants.items():
        if any(user not in constants for user in node.users):
            name = f"_folded_{node.name}"
            graph.register_buffer(name, value)
            with graph.graph.inserting_before(node):
                constant = graph.graph.get_attr(name)
            constant.meta = dict(node.meta)
            node.replace_all_uses_with(constant)


def _constant(graph: GraphModule, node: Node, constants: dict[Node, Tensor]) -> Tensor | None:
    """Return the result of a node if it is the same at every call, else None."""
    if not _is_pure(node):
        return None
    if node.target is _aten.lift_fresh_copy.default:
        return _literal(graph, node.args[0])
    inputs = node.all_input_nodes
    has_constant_inputs = bool(inputs) and all(source in constants for source in inputs)
    if node.target not in _FILLS and not has_constant_inputs:
        return None
    shape = _shape(node)
    if shape is None or torch.Size(shape).numel() > _LARGEST_CONSTANT:
        return None
    args = torch.fx.node.map_arg(node.args, lambda source: _tensor_like(graph, node, source, constants))
    result = node.target(*args, **node.kwargs)  # type: ignore[operator]
    return result if isinstance(result, Tensor) else None


def _literal(graph: GraphModule, source: Any) -> Tensor | None:
    """Return a copy of a tensor that the traced code made of Python numbers; None for another source."""
    literal = getattr(graph, str(source.target)) if isinstance(source, Node) and source.op == "get_attr" else None
    return literal.clone() if isinstance(literal, Tensor) else None


def _tensor_like(graph: GraphModule, node: Node, source: Node, constants: dict[Node, Tensor]) -> Tensor:
    """Return a constant argument of a node; for a filled tensor, any tensor with the argument's shape and dtype."""
    if source in constants:
        return constants[source]
    if source.op == "get_attr":  # a parameter or a buffer
        tensor: Tensor = getattr(graph, str(source.target))
        return tensor.detach()
    meta = source.meta["tensor_meta"]
    device = node.meta["val"].device if "val" in node.meta else None
    return torch.empty_strided(meta.shape, meta.stride, dtype=meta.dtype, device=device)


def _draw_by_randn(graph: GraphModule, node: Node) -> None:
    """Replace ``empty(...).normal_()`` by ``randn(...)``, which draws the same numbers in one call."""
    if node.target is not _aten.normal_.default or not _fills_fresh_memory(node) or len(node.args) > 1 or node.kwargs:
        return
    source = node.all_input_nodes[0]
    if source.target is _aten.empty.memory_format and "memory_format" not in source.kwargs:
        with graph.graph.inserting_before(node):
            draw = graph.graph.call_function(_aten.randn.default, source.args, source.kwargs)
        draw.meta = dict(node.meta)
        node.replace_all_uses_with(draw)
        graph.graph.erase_node(node)


def _copy_shared_outputs(graph: GraphModule) -> None:
    """Copy an output that shares memory with another one, with a constant, or with an input."""
    output_node = next(node for node in graph.graph.nodes if node.op == "output")
    owners: set[Node] = set()
    outputs = []
    for output in output_node.args[0]:
        owner = output
        while isinstance(owner, Node) and _is_view(owner):
            owner = owner.args[0]
        if not isinstance(owner, Node):
            outputs.append(output)
            continue
        if owner in owners or owner.op in ("get_attr", "placeholder"):
            with graph.graph.inserting_before(output_node):
                outputs.append(graph.graph.call_function(_aten.clone.default, (output,)))
        else:
            outputs.append(output)
        owners.add(owner)
    output_node.args = (tuple(outputs),)
