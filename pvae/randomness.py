"""What a look at a model must leave as it was: random generators, buffers, training modes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["RandomState", "evaluating", "preserved_buffers", "preserved_randomness"]


@dataclass(frozen=True)
class RandomState:
    """The states of torch's generators (CPU and each CUDA device in use), NumPy's and Python's."""

    torch: Tensor
    cuda: tuple[Tensor, ...]
    numpy: Any
    python: Any

    @classmethod
    def capture(cls) -> RandomState:
        """Return the present states. CUDA's only where CUDA was started: asking would start it."""
        cuda = tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else ()
        return cls(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())  # noqa: NPY002

    def restore(self) -> None:
        """Put every generator back to this state."""
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """Run a block, and leave every generator as it was before."""
    state = RandomState.capture()
    try:
        yield
    finally:
        state.restore()


@contextmanager
def preserved_buffers(*owners: Any) -> Iterator[None]:
    """Run a block, and leave the buffers of those owners that are modules (running averages, say) as they were."""
    modules = [each for each in owners if isinstance(each, nn.Module)]
    held = [(buffer, buffer.detach().clone()) for module in modules for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in held:
                # writing the same numbers again would break a graph that has saved the buffer for its gradient;
                # by value, since batch normalisation does not count its writes as versions
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


@contextmanager
def evaluating(*owners: Any) -> Iterator[None]:
    """Run a block with those owners that are modules in evaluation mode; each submodule's own flag is put back."""
    modules = [each for owner in owners if isinstance(owner, nn.Module) for each in owner.modules()]
    training = [each for each in modules if each.training]
    try:
        for each in training:
            each.training = False
        yield
    finally:
        for each in training:
            each.training = True
