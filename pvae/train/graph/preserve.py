"""Run a training step as a rehearsal: whatever it moves is put back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pvae.programs.registration import store_tensors
from pvae.train.devices import capture, restore
from pvae.train.parameters import is_average

__all__ = ["Frozen", "unmoved"]


class Frozen:
    """The state that a step moves beside the parameters: generators, buffers, running averages in Pyro's store."""

    def __init__(self, latent_model: Any, modules: Iterable[nn.Module]) -> None:
        self.latent_model = latent_model
        modules = list(modules)
        self.random = capture()
        self.buffers = [(each, each.detach().clone()) for module in modules for each in module.buffers()]
        self.modules = [each for module in modules for each in module.modules()]
        self.numbers = self._numbers()
        self.averages = {name: each.detach().clone() for name, each in self._averages().items()}
        self._store = self._averages()

    def beyond_reach(self) -> str | None:
        """What has moved that a graph of tensor operations would leave as it is, or None."""
        now = capture()
        for name, library in (("numpy", "NumPy's generator"), ("python", "the random module")):
            if not torch.equal(now[name], self.random[name]):
                return f"a program draws from {library}, and a graph would freeze the draw (use torch)"
        for (place, key), number in self._numbers().items():
            if self.numbers.get((place, key), number) != number:
                kind = type(self.modules[place]).__name__
                return f"a run of the programs changes the number {kind}.{key}, which a graph would freeze"
        held = self._averages()
        if held.keys() != self._store.keys() or any(held[name] is not self._store[name] for name in held):
            return "a decaying-average baseline of TraceGraph_ELBO lives in Python"
        return None

    def restore(self) -> None:
        """Put everything back."""
        restore(self.random)
        for (place, key), number in self.numbers.items():
            self.modules[place].__dict__[key] = number
        with torch.no_grad():
            for buffer, before in self.buffers:
                buffer.copy_(before)
        store = pyro.get_param_store()
        for name in self._averages():
            if name in self.averages:
                store[name] = self.averages[name].clone()
            else:
                del store[name]

    def _numbers(self) -> dict[tuple[int, str], Any]:
        """The plain numbers that modules hold, such as a count of calls."""
        return {
            (place, key): value
            for place, module in enumerate(self.modules)
            for key, value in module.__dict__.items()
            if type(value) in (int, float)
        }

    def _averages(self) -> dict[str, Tensor]:
        return {name: each for name, each in store_tensors(self.latent_model).items() if is_average(name)}


@contextmanager
def unmoved(latent_model: Any, modules: Iterable[nn.Module]) -> Iterator[Frozen]:
    """Run a block, and put back the generators, the buffers of `modules` and the averages in the store."""
    frozen = Frozen(latent_model, modules)
    try:
        yield frozen
    finally:
        frozen.restore()
