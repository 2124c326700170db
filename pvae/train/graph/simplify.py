"""Fewer operations, the same bits: what a traced training step can do without.

Pyro's distributions broadcast, expand and sum with great care, and most of that is idle once shapes are known. Every
rewrite here keeps each result's bits, which the first call of a graph is checked for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from pvae.checks import is_number

__all__ = ["simplify"]

_aten = torch.ops.aten
_LARGEST_CONSTANT = 2**22
_SHAPERS = {_aten.expand.default, _aten.view.default, _aten._unsafe_view.default, _aten.reshape.default}
_VIEWS = _SHAPERS | {
    _aten.t.default,
    _aten.transpose.int,
    _aten.permute.default,
    _aten.unsqueeze.default,
    _aten.squeeze.default,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.slice.Tensor,
    _aten.select.int,
    _aten.detach.default,
    _aten.alias.default,
}
_FILLERS = {
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
    """Take out of `graph`, in place, what does not change a result under ``no_grad``. Random draws all stay."""
    for node in list(graph.graph.nodes):
        _detour(graph, node)
    if not any(_writes(node) for node in graph.graph.nodes):
        for node in list(graph.graph.nodes):
            _forward_idle(node)
        _share(graph)
        _fold(graph)
        for node in list(graph.graph.nodes):
            _forward_idle(node)
            _draw_standard(graph, node)
    _separate_outputs(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _shape(node: Any) -> tuple[int, ...] | None:
    meta = node.meta.get("tensor_meta") if isinstance(node, Node) else None
    return tuple(meta.shape) if meta is not None else None


def _same_kind(node: Node, source: Any) -> bool:
    """Whether `node` has the shape and type of its `source`."""
    return _shape(node) is not None and (
        _shape(node) == _shape(source) and node.meta["tensor_meta"].dtype == source.meta["tensor_meta"].dtype
    )


def _is_idle(node: Node) -> bool:
    """Whether `node` returns its first argument's bits: t(t(x)), a shape it has, x + 0, x * 1, x / 1, x ** 1."""
    target, source = node.target, node.args[0]
    if target in (_aten.detach.default, _aten.alias.default):
        return True
    if not isinstance(source, Node) or not _same_kind(node, source):
        return False
    if target in _SHAPERS:
        return True
    second = node.args[1] if len(node.args) > 1 else None
    if not is_number(second) or node.kwargs:
        return False
    if target in (_aten.add.Tensor, _aten.sub.Tensor, _aten.add.Scalar, _aten.sub.Scalar):
        return second == 0
    neutral = (
        _aten.mul.Tensor,
        _aten.mul.Scalar,
        _aten.div.Tensor,
        _aten.div.Scalar,
        _aten.pow.Tensor_Scalar,
    )
    return target in neutral and second == 1


def _forward_idle(node: Node) -> None:
    """Let the users of an idle node use its source."""
    if node.op != "call_function" or not node.args:
        return
    source = node.args[0]
    if node.target is _aten.t.default and isinstance(source, Node) and source.target is _aten.t.default:
        node.replace_all_uses_with(source.args[0])  # type: ignore[arg-type]
    elif _is_idle(node):
        node.replace_all_uses_with(source)  # type: ignore[arg-type]


def _schema(node: Node) -> Any:
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None


def _fills(node: Node) -> bool:
    """Whether `node` only fills fresh memory that nothing else sees, as ``empty(...).normal_()`` does."""
    source = node.args[0] if node.args else None
    name = _schema(source).name if isinstance(source, Node) and _schema(source) is not None else ""
    return "::empty" in name and len(source.users) == 1  # type: ignore[union-attr]


def _writes(node: Node) -> bool:
    """Whether `node` changes a tensor in place: then values are no longer names for results."""
    schema = _schema(node)
    if schema is None:
        return node.op in ("call_module", "call_method")
    # batch normalisation updates its running averages without saying so in its schema
    return (schema.is_mutable and not _fills(node)) or "batch_norm" in schema.name


def _detour(graph: GraphModule, node: Node) -> None:
    """Give ``a.add_(b)`` a result of its own, where `a` is a result of this graph that has no view."""
    source = node.args[0] if node.args else None
    if not isinstance(source, Node) or source.op != "call_function" or _fills(node):
        return
    if _schema(node) is None or not _schema(node).is_mutable:
        return
    name, overload = node.target.name().removeprefix("aten::").partition(".")[::2]  # type: ignore[union-attr]
    packet = getattr(_aten, name.removesuffix("_"), None)
    plain = getattr(packet, overload or "default", None)
    owned = _is_pure(source) or _fills(source)
    if plain is None or not owned or source.target in _VIEWS or any(each.target in _VIEWS for each in source.users):
        return
    if torch.Tag.nondeterministic_seeded in node.target.tags:  # type: ignore[union-attr]
        return
    order = {each: number for number, each in enumerate(graph.graph.nodes)}
    with graph.graph.inserting_before(node):
        fresh = graph.graph.call_function(plain, node.args, node.kwargs)
    fresh.meta = dict(node.meta)
    source.replace_all_uses_with(fresh, lambda user: user is not fresh and order.get(user, -1) > order[node])
    node.replace_all_uses_with(fresh)
    graph.graph.erase_node(node)


def _is_pure(node: Node) -> bool:
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    random = torch.Tag.nondeterministic_seeded in target.tags or target._schema.is_mutable
    return target.namespace == "aten" and not random and "empty" not in target.name() and "rand" not in target.name()


def _key(value: Any) -> Any:
    """A hashable stand-in for an argument; the type tells 1 from 1.0 and True."""
    if isinstance(value, list | tuple):
        return tuple(_key(each) for each in value)
    return value if isinstance(value, Node) else (type(value), repr(value))


def _share(graph: GraphModule) -> None:
    """Compute a result once that is asked for twice."""
    seen: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op == "get_attr":
            key: Any = id(getattr(graph, str(node.target)))
        elif _is_pure(node):
            named = tuple(sorted((name, _key(value)) for name, value in node.kwargs.items()))
            key = (node.target, _key(node.args), named)
        else:
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.graph.erase_node(node)


def _fold(graph: GraphModule) -> None:
    """Compute now what depends on no input and no parameter: filled tensors, literals, and what follows of them."""
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
                kept = graph.graph.get_attr(name)
            kept.meta = dict(node.meta)
            node.replace_all_uses_with(kept)


def _constant(graph: GraphModule, node: Node, constants: dict[Node, Tensor]) -> Tensor | None:
    """The value of `node` where it is the same at every call, else None."""
    if not _is_pure(node):
        return None
    if node.target is _aten.lift_fresh_copy.default:
        source = node.args[0]
        literal = getattr(graph, str(source.target)) if isinstance(source, Node) and source.op == "get_attr" else None
        return literal.clone() if isinstance(literal, Tensor) else None
    filler = node.target in _FILLERS
    needed = node.all_input_nodes
    if not (filler or needed) or not (filler or all(each in constants for each in needed)):
        return None
    shape = _shape(node)
    if shape is None or torch.Size(shape).numel() > _LARGEST_CONSTANT:
        return None

    def known(each: Node) -> Tensor:
        if each in constants:
            return constants[each]
        if each.op == "get_attr":  # a parameter or a buffer, of which a filler takes the shape alone
            held: Tensor = getattr(graph, str(each.target))
            return held.detach()
        meta = each.meta["tensor_meta"]
        device = node.meta["val"].device if "val" in node.meta else None
        return torch.empty_strided(meta.shape, meta.stride, dtype=meta.dtype, device=device)

    args = torch.fx.node.map_arg(node.args, known)
    result = node.target(*args, **node.kwargs)  # type: ignore[operator]
    return result if isinstance(result, Tensor) else None


def _draw_standard(graph: GraphModule, node: Node) -> None:
    """Draw ``empty(...).normal_()`` as ``randn``: the same numbers, of the same generator, in one call."""
    if node.target is not _aten.normal_.default or not _fills(node) or len(node.args) > 1 or node.kwargs:
        return
    source = node.all_input_nodes[0]
    if source.target is _aten.empty.memory_format and "memory_format" not in source.kwargs:
        with graph.graph.inserting_before(node):
            drawn = graph.graph.call_function(_aten.randn.default, source.args, source.kwargs)
        drawn.meta = dict(node.meta)
        node.replace_all_uses_with(drawn)
        graph.graph.erase_node(node)


def _separate_outputs(graph: GraphModule) -> None:
    """Copy a result that shares memory with another one, with a constant, or with an input."""
    output = next(node for node in graph.graph.nodes if node.op == "output")
    bases: set[Node] = set()
    results = []
    for each in output.args[0]:
        base = each
        while isinstance(base, Node) and base.target in _VIEWS:
            base = base.args[0]
        if isinstance(base, Node):
            if base in bases or base.op in ("get_attr", "placeholder"):
                with graph.graph.inserting_before(output):
                    each = graph.graph.call_function(_aten.clone.default, (each,))
            bases.add(base)
        results.append(each)
    output.args = (tuple(results),)
