"""Run a block of training steps, then restore random generators, buffers, Python values and running averages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pvae.programs.parameter_scope import store_tensors
from pvae.randomness import Buffers
from pvae.train.devices import capture_generators, restore_generators
from pvae.train.graph.python_reads import find_reads
from pvae.train.parameters import Parameters, is_average

__all__ = ["PreservedState", "preserve_state", "preserve_step"]

#: Tensors outside modules with more elements than this are taken as data, which programs do not change.
_LARGEST_TENSOR = 2**20


class PreservedState:
    """The state that a step changes besides the parameters, as it was when this object was made.

    It holds random generators, buffers, the Python values that programs can read, and running averages in Pyro's store.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        modules: the modules with buffers; the values that their methods read are restored too.
    """

    def __init__(self, latent_model: Any, modules: Iterable[nn.Module]) -> None:
        self.latent_model = latent_model
        modules = list(modules)
        self.random = capture_generators()
        self.reads = find_reads([latent_model, latent_model.model, latent_model.guide, *modules])
        self.buffers = Buffers(modules)
        tensors = [tensor for tensor in self.reads.tensors() if tensor.numel() <= _LARGEST_TENSOR]
        self.tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._averages = self._find_averages()
        self._average_values = {name: average.detach().clone() for name, average in self._averages.items()}

    def untraceable_change(self) -> str | None:
        """Return a description of a change that a graph of tensor operations would not make, or None."""
        random = capture_generators()
        for name, library in (("numpy", "NumPy's generator"), ("python", "the random module")):
            if not torch.equal(random[name], self.random[name]):
                return f"a program draws from {library}, and a graph would freeze the draw (use torch)"
        change = self.reads.find_change()
        if change is not None:
            return f"a run of the programs changes {change}, which a graph would freeze"
        buffer = self.buffers.replaced()
        if buffer is not None:
            return (
                f"a run of the programs puts another tensor in the place of the buffer {buffer!r}, and a graph would "
                "keep the first one (change it in place, as by copy_)"
            )
        averages = self._find_averages()
        same_names = averages.keys() == self._averages.keys()
        if not same_names or any(averages[name] is not self._averages[name] for name in averages):
            return "a decaying-average baseline of TraceGraph_ELBO lives in Python"
        return None

    def restore(self) -> None:
        """Restore all values."""
        self.reads.restore()
        self.restore_tensors()

    def restore_tensors(self) -> None:
        """Set random generators, buffers and running averages to their former values, but not the Python values."""
        restore_generators(self.random)
        self.buffers.restore()
        with torch.no_grad():
            for tensor, former in self.tensors:
                if not torch.equal(tensor, former):
                    tensor.copy_(former)
        store = pyro.get_param_store()
        for name in self._find_averages():
            if name in self._average_values:
                store[name] = self._average_values[name].clone()
            else:
                del store[name]

    def _find_averages(self) -> dict[str, Tensor]:
        entries = store_tensors(self.latent_model).items()
        return {name: tensor for name, tensor in entries if is_average(name)}


@contextmanager
def preserve_state(latent_model: Any, modules: Iterable[nn.Module]) -> Iterator[PreservedState]:
    """Run a block, then restore random generators, the state of `modules`, and the averages in the store.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        modules: the modules whose buffers and Python values are restored.
    """
    state = PreservedState(latent_model, modules)
    try:
        yield state
    finally:
        state.restore()


def preserve_step(parameters: Parameters) -> AbstractContextManager[PreservedState]:
    """Run a block of training steps, then restore what `preserve_state` restores, of the programs and the objective.

    Args:
        parameters: the trained tensors of both.
    """
    return preserve_state(parameters.latent_model, parameters.modules)
