"""A graph with its tensors as arguments, as a compiler needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

__all__ = ["LiftedGraph", "lift"]


@dataclass(frozen=True)
class LiftedGraph:
    """A graph that holds no tensors.

    Attributes:
        module: the graph, a function of the arguments of the former graph, followed by `tensors`.
        tensors: the tensors that the former graph held: parameters, buffers and constants, each one once.
    """

    module: GraphModule
    tensors: tuple[Tensor, ...]


def lift(module: GraphModule) -> LiftedGraph:
    """Return a graph with the tensors that it holds as further arguments.

    Args:
        module: a graph of tensor operations, which does not change.
    """
    graph = Graph()
    copies: dict[Node, Node] = {}
    nodes = list(module.graph.nodes)
    for node in nodes:
        if node.op == "placeholder":
            copies[node] = graph.node_copy(node)
    tensors: dict[int, Tensor] = {}
    arguments: dict[int, Node] = {}
    for node in nodes:
        if node.op == "get_attr":
            tensor: Tensor = getattr(module, str(node.target))
            if id(tensor) not in tensors:
                tensors[id(tensor)] = tensor
                arguments[id(tensor)] = graph.placeholder(f"held_{len(arguments)}")
            copies[node] = arguments[id(tensor)]

    def copy_of(source: Node) -> Node:
        return copies[source]

    outputs: Any = ()
    for node in nodes:
        if node.op == "output":
            outputs = map_arg(node.args[0], copy_of)
        elif node not in copies:
            copies[node] = graph.node_copy(node, copy_of)
    graph.output(outputs)
    return LiftedGraph(GraphModule({}, graph), tuple(tensors.values()))
