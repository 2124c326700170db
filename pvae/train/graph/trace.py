"""Tracing of a training step to a flat graph of tensor operations, which needs neither Pyro nor autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from pvae.objectives.pyro.patches import without_synchronisation
from pvae.train.graph.simplify import simplify

__all__ = ["trace"]

Outputs = tuple[Tensor | None, ...]


def _one_fake_mode() -> AbstractContextManager[Any]:
    """Return a context with one fake mode for all tensors. The tracer makes one per tensor, which is slow."""
    return tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))


def trace(function: Callable[..., Outputs], arguments: Sequence[Tensor]) -> Callable[..., Outputs]:
    """Return a function as a flat list of tensor operations, for arguments of the same shapes and dtypes.

    Tensors that the function closes over are captured by reference, so that the graph sees the updates of optimisers
    that work in place. Random operations remain operations, and each call draws anew. Python numbers are frozen.

    Args:
        function: a function of tensors that returns a tuple of tensors or None; it may call `torch.autograd.grad`.
        arguments: tensors with the shapes and dtypes of later calls.

    Raises:
        Exception: any error of a branch on a tensor's value, or of an operation that cannot be traced.
    """
    with without_synchronisation(), _one_fake_mode():
        graph = make_fx(function, tracing_mode="real", _allow_non_fake_inputs=True)(*arguments)
    simplify(graph)
    # In a plain namespace, because attribute access of nn.Module takes a tenth of the time of a small model's step.
    names = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    constants = SimpleNamespace(**{name: getattr(graph, name) for name in names})
    forward = type(graph).forward

    @torch.no_grad()
    def run(*values: Tensor) -> Outputs:
        return forward(constants, *values)

    return run
