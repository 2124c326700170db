"""A graph in two parts: the part that depends on fixed arguments only is computed once, the rest at each call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node

from pvae.train.graph.trace import Outputs, as_function, trace_module

__all__ = ["HoistedGraph", "is_impure", "split_by_arguments", "trace_with_fixed"]


@dataclass(frozen=True)
class HoistedGraph:
    """A graph of varying and fixed arguments, in two parts.

    Attributes:
        prepare: the part that depends on the fixed arguments and the parameters only.
        run: the rest, a function of the varying arguments and of the results of `prepare`.
    """

    prepare: Callable[..., Outputs]
    run: Callable[..., Outputs]

    def at(self, fixed: Sequence[Tensor]) -> Callable[..., Outputs]:
        """Return the function of the varying arguments at fixed ones.

        Args:
            fixed: tensors of the same shapes and dtypes as those of the trace. The parameters must not change while
                the function is in use.
        """
        constants = self.prepare(*fixed)
        return lambda *varying: self.run(*varying, *constants)


def trace_with_fixed(
    function: Callable[..., Outputs], varying: Sequence[Tensor], fixed: Sequence[Tensor]
) -> HoistedGraph:
    """Return a function as a graph in two parts: the part of the fixed arguments, and the rest.

    A graph that draws at random or changes a tensor in place is not split.

    Args:
        function: a function of ``(*varying, *fixed)``, as for `pvae.train.graph.trace.trace`.
        varying: arguments with the shapes and dtypes of later calls.
        fixed: arguments with the shapes and dtypes of later calls.

    Raises:
        Exception: as `pvae.train.graph.trace.trace`.
    """
    module, _, _ = trace_module(function, [*varying, *fixed])
    if any(is_impure(node) for node in module.graph.nodes):
        return HoistedGraph(lambda *values: values, as_function(module))
    prepare, run = split_by_arguments(module, len(varying))
    return HoistedGraph(as_function(prepare), as_function(run))


def is_impure(node: Node) -> bool:
    """Return whether a node draws at random or changes a tensor in place, so that its position matters.

    Args:
        node: a node of a graph of tensor operations.
    """
    if node.op != "call_function":
        return node.op in ("call_module", "call_method")
    if not isinstance(node.target, OpOverload):
        return False
    is_random = torch.Tag.nondeterministic_seeded in node.target.tags
    return is_random or node.target._schema.is_mutable


def split_by_arguments(module: GraphModule, varying: int) -> tuple[GraphModule, GraphModule]:
    """Return the graph of the part that does not depend on the first arguments, and the graph of the rest.

    The first takes the other arguments. The second takes the first arguments, then the results of the first graph.

    Args:
        module: a graph without random operations and changes in place.
        varying: the number of the first arguments.
    """
    nodes = list(module.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    dependent = set(placeholders[:varying])
    for node in nodes:
        if any(source in dependent for source in node.all_input_nodes):
            dependent.add(node)
    output = next(node for node in nodes if node.op == "output")
    boundary = [
        node
        for node in nodes
        if node not in dependent
        and node is not output
        and node.op != "get_attr"
        and any(user in dependent or user is output for user in node.users)
    ]
    early = [node for node in nodes if node not in dependent and node is not output]
    prepare = _copy(module, early, [], tuple(boundary))
    late = [node for node in nodes if (node in dependent and node is not output) or node.op == "get_attr"]
    return prepare, _copy(module, late, boundary, output.args[0])


def _copy(module: GraphModule, nodes: Sequence[Node], arguments: Sequence[Node], outputs: Any) -> GraphModule:
    """Return the graph of some nodes of a module.

    Args:
        module: the module with the constants.
        nodes: the nodes in order; their placeholders come first among the arguments.
        arguments: nodes of other graphs, which become further placeholders.
        outputs: the outputs, as nodes of the module.
    """
    graph = Graph()
    copies: dict[Node, Node] = {node: graph.node_copy(node) for node in nodes if node.op == "placeholder"}
    for index, node in enumerate(arguments):
        copies[node] = graph.placeholder(f"constant_{index}")
        copies[node].meta = dict(node.meta)
    for node in nodes:
        if node not in copies:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.output(torch.fx.node.map_arg(outputs, lambda source: copies[source]))
    graph.eliminate_dead_code()
    return GraphModule(module, graph)
