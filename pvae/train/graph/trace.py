"""Tracing of a training step to a flat graph of tensor operations, which needs neither Pyro nor autograd."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.infer.util
import pyro.util
import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import Distribution
from torch.fx.experimental.proxy_tensor import make_fx

from pvae.train.graph.simplify import simplify

__all__ = ["trace", "without_synchronisation"]

Outputs = tuple[Tensor | None, ...]


def _return_first(value: Any, *_: Any, **__: Any) -> Any:
    return value


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _is_pyro() -> bool:
    """Return whether the caller is a module of Pyro, which is then told that torch is tracing.

    Modules of torch are not told so, because they would warn and compute in another way.
    """
    return sys._getframe(1).f_globals.get("__name__", "").startswith("pyro.")


@contextmanager
def without_synchronisation() -> Iterator[None]:
    """Let Pyro's losses compute without ``.item()``, NaN warnings, validation, or branches on the values of tensors.

    Pyro reads numbers from the device in ``torch_item`` and ``warn_if_nan``, which its modules import by name. It
    omits branches on values if torch says that it is tracing. Everything is restored after the block.
    """
    replacements = {pyro.infer.util.torch_item: _detached, pyro.util.warn_if_nan: _return_first}
    saved: list[tuple[Any, str, Any]] = [(torch._C, "_get_tracing_state", torch._C._get_tracing_state)]
    saved.append((Distribution, "_validate_sample", Distribution._validate_sample))
    for name, module in list(sys.modules.items()):
        if name.startswith(("pyro.", "pvae.")) and module is not None:
            for key, value in list(vars(module).items()):
                if callable(value) and getattr(value, "__hash__", None) and value in replacements:
                    saved.append((module, key, value))
    try:
        torch._C._get_tracing_state = _is_pyro  # type: ignore[assignment]
        # validation_enabled has no effect on a distribution that was made before the block
        Distribution._validate_sample = _return_first  # type: ignore[assignment, method-assign]
        for module, key, value in saved[2:]:
            setattr(module, key, replacements[value])
        with pyro.validation_enabled(False):
            yield
    finally:
        for module, key, value in saved:
            setattr(module, key, value)


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
