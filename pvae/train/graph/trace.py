"""Tracing of a training step to a flat graph of tensor operations, which needs neither Pyro nor autograd."""

from __future__ import annotations

import linecache
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph_module import _loader

from pvae.objectives.pyro.one_hot_vectors import one_hot_without_reads
from pvae.objectives.pyro.patches import values_refused, without_synchronisation
from pvae.products.libraries import BLOCKS, PRODUCTS_IN_ROW
from pvae.products.numpy_products import warnings_silenced
from pvae.train.graph.dynamic_shapes import (
    ConstantReads,
    DynamicShapeError,
    RaiseAtDynamicShape,
    find_dynamic_operation,
    fixed_tensors,
)
from pvae.train.graph.simplify import simplify

__all__ = ["StepGraph", "as_function", "sources_forgotten", "trace", "trace_module"]

Outputs = tuple[Tensor | None, ...]

_LOG = logging.getLogger(__name__)
#: The source code of all graphs of this process, by the name of its file, which does not exist.
_SOURCES: dict[str, str] = _loader.eval_cache


@dataclass(frozen=True)
class StepGraph:
    """A traced function, and the tensors that it keeps from the time of the trace.

    Attributes:
        run: the function of the arguments.
        captured: the ids of the tensors that the graph holds by reference: parameters, buffers and constants.
        fixed: tensors with values that the graph has frozen, each with a copy of these values.
        module: the graph that `run` runs.
    """

    run: Callable[..., Outputs]
    captured: frozenset[int]
    fixed: tuple[tuple[Tensor, Tensor], ...]
    module: GraphModule

    @property
    def outputs(self) -> Sequence[Any]:
        """The outputs of the graph: nodes, or None for a gradient that does not exist."""
        return next(node for node in self.module.graph.nodes if node.op == "output").args[0]

    def copied_module(self) -> GraphModule:
        """Return a copy of the graph, which holds the same parameters by reference and may be changed."""
        copy = Graph()
        copy.output(copy.graph_copy(self.module.graph, {}))
        return GraphModule(self.module, copy)

    def count_operations(self) -> int:
        """Return the number of tensor operations."""
        return sum(node.op == "call_function" for node in self.module.graph.nodes)

    def has_fixed_values(self) -> bool:
        """Return whether the tensors of `fixed` still have the values of the trace."""
        return all(torch.equal(tensor, values) for tensor, values in self.fixed)


def _one_fake_mode() -> AbstractContextManager[Any]:
    """Return a context with one fake mode for all tensors. The tracer makes one per tensor, which is slow."""
    return tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))


@contextmanager
def sources_forgotten() -> Iterator[None]:
    """Remove the source code of the graphs that the block makes; torch keeps it for as long as the process lives.

    It is about 25 kB for each training. torch needs it for tracebacks through a graph, which do not help users.
    """
    known = set(_SOURCES)
    try:
        yield
    finally:
        for name in set(_SOURCES) - known:
            _SOURCES.pop(name, None)
            linecache.cache.pop(name, None)


def trace(function: Callable[..., Outputs], arguments: Sequence[Tensor]) -> StepGraph:
    """Return a function as a flat list of tensor operations, for arguments of the same shapes and dtypes.

    Tensors that the function closes over are captured by reference, so the graph uses the updated values after an
    optimiser has changed them in place. Random operations remain operations: each call draws new numbers. Python
    numbers are frozen.

    Args:
        function: a function of tensors that returns a tuple of tensors or None; it may call `torch.autograd.grad`.
        arguments: tensors with the shapes and dtypes of later calls.

    Raises:
        DynamicShapeError: if a shape depends on the values of the arguments, of parameters or of draws.
        Exception: any error that a branch on a tensor's value, or an operation that cannot be traced, raises.
    """
    begun = time.monotonic()
    graph, captured, fixed = trace_module(function, arguments)
    traced = StepGraph(as_function(graph), captured, fixed, graph)
    shapes = [tuple(argument.shape) for argument in arguments]
    _LOG.debug("graph of %d operations for %s: %.3f s", traced.count_operations(), shapes, time.monotonic() - begun)
    return traced


def trace_module(
    function: Callable[..., Outputs], arguments: Sequence[Tensor]
) -> tuple[GraphModule, frozenset[int], tuple[tuple[Tensor, Tensor], ...]]:
    """Return the simplified graph of a function, and the tensors that it keeps, as in `StepGraph`.

    Args:
        function: as for `trace`.
        arguments: as for `trace`.

    Raises:
        DynamicShapeError: as `trace`.
        Exception: as `trace`.
    """
    with sources_forgotten():
        return _trace_module(function, arguments)


def _trace_module(
    function: Callable[..., Outputs], arguments: Sequence[Tensor]
) -> tuple[GraphModule, frozenset[int], tuple[tuple[Tensor, Tensor], ...]]:
    reads = ConstantReads()

    def recorded(*values: Tensor) -> Outputs:
        with reads:
            return function(*values)

    with without_synchronisation(), values_refused(), one_hot_without_reads(), _one_fake_mode():
        graph = make_fx(recorded, tracing_mode="real", _allow_non_fake_inputs=True)(*arguments)
    position = find_dynamic_operation(graph)
    if position is not None:
        with without_synchronisation(), RaiseAtDynamicShape(position):
            function(*arguments)
        raise DynamicShapeError("the shape of a tensor depends on values")
    captured = [getattr(graph, str(node.target)) for node in graph.graph.nodes if node.op == "get_attr"]
    fixed = (*reads.tensors, *((tensor, tensor.clone()) for tensor in fixed_tensors(graph)))
    simplify(graph)
    return graph, frozenset(map(id, captured)), fixed


def as_function(graph: GraphModule) -> Callable[..., Outputs]:
    """Return a graph as a function that runs without gradients.

    Args:
        graph: a graph of tensor operations.
    """
    # In a plain namespace, because attribute access of nn.Module takes a tenth of the time of a small model's step.
    names = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    constants = SimpleNamespace(**{name: getattr(graph, name) for name in names})
    forward = type(graph).forward

    @torch.no_grad()
    def run(*values: Tensor) -> Outputs:
        return forward(constants, *values)

    by_numpy = (PRODUCTS_IN_ROW["numpy"], PRODUCTS_IN_ROW[BLOCKS])
    if not any(node.target in by_numpy for node in graph.graph.nodes):
        return run

    def run_silently(*values: Tensor) -> Outputs:
        with warnings_silenced():
            return run(*values)

    return run_silently
