"""Run a block of training steps, then restore random generators, buffers and running averages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pvae.programs.parameter_scope import store_tensors
from pvae.train.devices import capture_generators, restore_generators
from pvae.train.parameters import is_average

__all__ = ["PreservedState", "preserve_state"]


class PreservedState:
    """The state that a step changes besides the parameters, as it was when this object was made.

    It holds random generators, buffers, plain numbers of modules, and running averages in Pyro's store.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        modules: the modules with buffers and numbers.
    """

    def __init__(self, latent_model: Any, modules: Iterable[nn.Module]) -> None:
        self.latent_model = latent_model
        modules = list(modules)
        self.random = capture_generators()
        self.buffers = [(buffer, buffer.detach().clone()) for module in modules for buffer in module.buffers()]
        self.modules = [submodule for module in modules for submodule in module.modules()]
        self.numbers = self._plain_numbers()
        self._averages = self._find_averages()
        self._average_values = {name: average.detach().clone() for name, average in self._averages.items()}

    def untraceable_change(self) -> str | None:
        """Return what has changed that a graph of tensor operations would not change, or None."""
        random = capture_generators()
        for name, library in (("numpy", "NumPy's generator"), ("python", "the random module")):
            if not torch.equal(random[name], self.random[name]):
                return f"a program draws from {library}, and a graph would freeze the draw (use torch)"
        for (index, key), number in self._plain_numbers().items():
            if self.numbers.get((index, key), number) != number:
                kind = type(self.modules[index]).__name__
                return f"a run of the programs changes the number {kind}.{key}, which a graph would freeze"
        averages = self._find_averages()
        same_names = averages.keys() == self._averages.keys()
        if not same_names or any(averages[name] is not self._averages[name] for name in averages):
            return "a decaying-average baseline of TraceGraph_ELBO lives in Python"
        return None

    def restore(self) -> None:
        """Set everything to its former value."""
        restore_generators(self.random)
        for (index, key), number in self.numbers.items():
            self.modules[index].__dict__[key] = number
        with torch.no_grad():
            for buffer, former in self.buffers:
                buffer.copy_(former)
        store = pyro.get_param_store()
        for name in self._find_averages():
            if name in self._average_values:
                store[name] = self._average_values[name].clone()
            else:
                del store[name]

    def _plain_numbers(self) -> dict[tuple[int, str], Any]:
        """Return the plain numbers that modules hold as attributes, such as a count of calls."""
        return {
            (index, key): value
            for index, module in enumerate(self.modules)
            for key, value in module.__dict__.items()
            if type(value) in (int, float)
        }

    def _find_averages(self) -> dict[str, Tensor]:
        entries = store_tensors(self.latent_model).items()
        return {name: tensor for name, tensor in entries if is_average(name)}


@contextmanager
def preserve_state(latent_model: Any, modules: Iterable[nn.Module]) -> Iterator[PreservedState]:
    """Run a block, then restore random generators, the state of `modules`, and the averages in the store.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        modules: the modules whose buffers and plain numbers are restored.
    """
    state = PreservedState(latent_model, modules)
    try:
        yield state
    finally:
        state.restore()
