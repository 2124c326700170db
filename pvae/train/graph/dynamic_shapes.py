"""Operations of a traced step with a result shape that depends on values, such as ``x[y > 0]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.shape_prop import TensorMetadata
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = [
    "ConstantReads",
    "DynamicShapeError",
    "RaiseAtDynamicShape",
    "find_dynamic_operation",
    "fixed_tensors",
    "is_fill",
]

_TAGS = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
#: Operations of this kind that PyTorch does not tag.
_UNTAGGED = {"aten::_pack_padded_sequence", "aten::_pad_packed_sequence", "aten::_to_sparse", "aten::_coalesce"}
_MASK_DTYPES = (torch.bool, torch.uint8)
#: Operations that read the shape and the dtype of a tensor, but not its values.
_FILLS = {f"aten::{name}" for name in ("new_ones", "new_zeros", "new_full", "ones_like", "zeros_like", "full_like")}


class DynamicShapeError(RuntimeError):
    """A program computes a tensor with a shape that depends on values."""


def find_dynamic_operation(graph: GraphModule) -> int | None:
    """Return the position of the first operation with a shape that depends on an argument, parameter or draw, or None.

    A selection by constant tensors, such as a mask that a model holds, does not count: see `fixed_tensors`.

    Args:
        graph: the traced step before any simplification.

    Returns:
        The position among all operations with a shape that depends on values.
    """
    fixed = _fixed_nodes(graph)
    dynamic = (node for node in graph.graph.nodes if _has_dynamic_shape(node))
    return next((position for position, node in enumerate(dynamic) if not _sources(node) <= fixed), None)


def fixed_tensors(graph: GraphModule) -> list[Tensor]:
    """Return the constant tensors with values that decide a shape. The graph is valid while these values stay the same.

    Args:
        graph: the traced step before any simplification.
    """
    fixed = _fixed_nodes(graph)
    deciding: set[Node] = set()
    for node in graph.graph.nodes:
        if _has_dynamic_shape(node) and _sources(node) <= fixed:
            deciding |= _sources(node)
    nodes = _with_all_sources(deciding) & fixed
    tensors = (getattr(graph, str(node.target)) for node in nodes if node.op == "get_attr")
    return [tensor for tensor in tensors if isinstance(tensor, Tensor)]


def _mask_arguments(operation: Any, args: Sequence[Any]) -> list[Any] | None:
    """Return the indices of an indexing operation; None for another operation."""
    if operation not in (torch.ops.aten.index.Tensor, torch.ops.aten._unsafe_index.Tensor):
        return None
    return [index for index in args[1] if index is not None]


def _dtype(value: Any) -> torch.dtype | None:
    """Return the dtype of a tensor or of a node's result."""
    if isinstance(value, Node):
        value = value.meta.get("val", value.meta.get("tensor_meta"))
    return value.dtype if isinstance(value, Tensor | TensorMetadata) else None


def _is_dynamic(operation: Any, args: Sequence[Any]) -> bool:
    """Return whether an operation with these arguments gives a result of a shape that depends on values."""
    if not isinstance(operation, OpOverload):
        return False
    indices = _mask_arguments(operation, args)
    if indices is not None:
        return any(_dtype(index) in _MASK_DTYPES for index in indices)
    return bool(_TAGS & set(operation.tags)) or operation.name().partition(".")[0] in _UNTAGGED


def _has_dynamic_shape(node: Node) -> bool:
    return node.op == "call_function" and _is_dynamic(node.target, node.args)


def _sources(node: Node) -> set[Node]:
    """Return the nodes with values that decide the shape: the indices of a selection, else all inputs."""
    indices = _mask_arguments(node.target, node.args)
    return set(node.all_input_nodes if indices is None else indices)


def _fixed_nodes(graph: GraphModule) -> set[Node]:
    """Return the nodes that depend on constant tensors only, not on arguments, parameters or random draws."""
    fixed: set[Node] = set()
    changed = _with_all_sources(_changed_in_place(graph.graph))
    for node in graph.graph.nodes:
        if node in changed:
            continue
        if node.op == "get_attr":
            tensor = getattr(graph, str(node.target))
            is_fixed = isinstance(tensor, Tensor) and not tensor.requires_grad
        else:
            inputs_are_fixed = is_fill(node) or set(node.all_input_nodes) <= fixed
            is_fixed = node.op == "call_function" and _is_deterministic(node) and inputs_are_fixed
        if is_fixed:
            fixed.add(node)
    return fixed


def _is_deterministic(node: Node) -> bool:
    operation = node.target
    return not isinstance(operation, OpOverload) or torch.Tag.nondeterministic_seeded not in operation.tags


def is_fill(node: Node) -> bool:
    """Return whether a node is a new tensor of constants; its shape may be taken from another node."""
    return isinstance(node.target, OpOverload) and node.target._schema.name in _FILLS


def _changed_in_place(graph: Graph) -> set[Node]:
    """Return the tensors that the graph writes into."""
    operations = (node for node in graph.nodes if isinstance(node.target, OpOverload))
    writers = [node for node in operations if node.target._schema.is_mutable]
    return {node.args[0] for node in writers if node.args and isinstance(node.args[0], Node)}


def _with_all_sources(nodes: set[Node]) -> set[Node]:
    """Return the nodes and all nodes that they are computed from."""
    reached: set[Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in reached:
            reached.add(node)
            pending += node.all_input_nodes
    return reached


class ConstantReads(TorchDispatchMode):
    """Records the constant tensors of which a program reads a number, as by ``float``, while a step is traced.

    A graph is right as long as they have these values. For other tensors, the tracer raises an error.

    Attributes:
        tensors: the tensors, each with a copy of its values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        result = func(*args, **(kwargs or {}))
        if torch.Tag.data_dependent_output in func.tags and not isinstance(result, Tensor):
            with _disable_current_modes():
                self.tensors += [(value, value.detach().clone()) for value in args if isinstance(value, Tensor)]
        return result


class RaiseAtDynamicShape(TorchDispatchMode):
    """Raises where a program computes a tensor with a shape that depends on values, so the traceback has the line.

    Args:
        count: the number of these operations to skip first, because their values are constants.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation.

        Raises:
            DynamicShapeError: if it is one of them, and none is left to skip.
        """
        if _is_dynamic(func, args):
            if self.count == 0:
                name = func.name().removeprefix("aten::").partition(".")[0]
                raise DynamicShapeError(f"the result of {name!r} has a shape that depends on values")
            self.count -= 1
        return func(*args, **(kwargs or {}))
