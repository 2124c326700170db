"""Compiles a graph by inductor, the compiler of torch, to a function that takes few calls around the compiled code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import GraphModule

__all__ = ["compile_graph"]


def compile_graph(graph: GraphModule, inputs: Sequence[Tensor], options: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the compiled function of a graph, to be called without gradients.

    torch wraps the compiled code in functions for aliases, gradients and profiles, which take about a tenth of the step
    of a small network. If the compiled code has the inputs and the outputs of the graph, these functions do nothing,
    and they are left out.

    Args:
        graph: a graph of tensor operations, which may change its inputs in place.
        inputs: tensors with the shapes, strides and dtypes of later calls.
        options: the settings of inductor that differ from its own.

    Raises:
        Exception: any error of the compiler, for instance if the machine has no C++ compiler.
    """
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner  # slow to import, and rarely needed

    found: list[tuple[GraphModule, Callable[..., Any]]] = []

    def compile_inner(inner: GraphModule, example_inputs: Any, **settings: Any) -> Any:
        code: Any = compile_fx_inner(inner, example_inputs, **settings)
        found.append((inner, code))
        return code

    signature = _signature(graph)
    wrapped: Any = compile_fx(graph, list(inputs), inner_compile=compile_inner, config_patches=dict(options))
    if len(found) != 1 or _signature(found[0][0]) != signature:
        return wrapped
    code = found[0][1]
    return lambda *tensors: code(list(tensors))


def _signature(graph: GraphModule) -> tuple[int, int]:
    """Return the number of inputs and of outputs of a graph."""
    placeholders = graph.graph.find_nodes(op="placeholder")
    (outputs,) = graph.graph.output_node().args
    return len(placeholders), len(outputs)  # type: ignore[arg-type]
