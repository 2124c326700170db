"""One training step traced below Pyro: a flat graph of tensor operations, without Pyro and autograd."""

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


def _keep(value: Any, *_: Any, **__: Any) -> Any:
    return value


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _is_pyro() -> bool:
    """Say "tracing" to Pyro's modules alone: torch's own would warn, and take other ways."""
    return sys._getframe(1).f_globals.get("__name__", "").startswith("pyro.")


@contextmanager
def without_synchronisation() -> Iterator[None]:
    """Let Pyro's losses run on tensors alone: no ``.item()``, NaN warning, validation or branch on a value.

    Pyro reads numbers off the device in ``torch_item`` and ``warn_if_nan``, which its modules import by name,
    and leaves out branches on values where torch says that it is tracing. Everything is put back afterwards.
    """
    replaced = {pyro.infer.util.torch_item: _detached, pyro.util.warn_if_nan: _keep}
    saved: list[tuple[Any, str, Any]] = [(torch._C, "_get_tracing_state", torch._C._get_tracing_state)]
    saved.append((Distribution, "_validate_sample", Distribution._validate_sample))
    for name, module in list(sys.modules.items()):
        if name.startswith(("pyro.", "pvae.")) and module is not None:
            for key, value in list(vars(module).items()):
                if callable(value) and getattr(value, "__hash__", None) and value in replaced:
                    saved.append((module, key, value))
    try:
        torch._C._get_tracing_state = _is_pyro  # type: ignore[assignment]
        # a distribution that was made beforehand has kept the default of then
        Distribution._validate_sample = _keep  # type: ignore[assignment, method-assign]
        for module, key, value in saved[2:]:
            setattr(module, key, replaced[value])
        with pyro.validation_enabled(False):
            yield
    finally:
        for module, key, value in saved:
            setattr(module, key, value)


def _one_fake_mode() -> AbstractContextManager[Any]:
    """Let the tracer describe tensors by one mode: it would make one for each, which takes most of a trace's time."""
    return tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))


def trace(function: Callable[..., Outputs], arguments: Sequence[Tensor]) -> Callable[..., Outputs]:
    """Return `function` as a flat list of tensor operations, for arguments of the same shapes and types.

    Tensors that the function closes over are captured by reference, so optimisers that work in place are
    seen. Random operations stay operations: each call draws anew. Python numbers are frozen.

    Args:
        function: of tensors alone; it may call `torch.autograd.grad`. It returns a tuple of tensors or None.
        arguments: tensors as those to be passed later.

    Raises:
        Exception: whatever a branch on a tensor's value, or an operation that cannot be traced, raises.
    """
    with without_synchronisation(), _one_fake_mode():
        graph = make_fx(function, tracing_mode="real", _allow_non_fake_inputs=True)(*arguments)
    simplify(graph)
    # a plain namespace: looking constants up through nn.Module costs a tenth of a small model's step
    names = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    constants = SimpleNamespace(**{name: getattr(graph, name) for name in names})
    forward = type(graph).forward

    @torch.no_grad()
    def run(*values: Tensor) -> Outputs:
        return forward(constants, *values)

    return run
