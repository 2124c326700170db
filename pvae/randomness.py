"""Restore random generators, buffers and train/eval modes after a block."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pvae.accelerators import capture_states, restore_states, seed_devices
from pvae.errors import InputError

# the lock of the thread that has seeded or preserved the generators; a thread may hold it several times
_one_thread = threading.RLock()


def _free_lock_of_lost_thread() -> None:
    """Make a new lock in a forked process if another thread, which the fork does not copy, held the old one."""
    global _one_thread
    if not _one_thread._is_owned():  # type: ignore[attr-defined]
        _one_thread = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_lock_of_lost_thread)

__all__ = [
    "Buffers",
    "RandomState",
    "evaluating",
    "preserved_buffers",
    "preserved_randomness",
    "seed_generators",
    "seeded",
]


@dataclass(frozen=True)
class RandomState:
    """The states of the global random generators.

    Attributes:
        torch: state of PyTorch's CPU generator.
        devices: states of the generators of accelerators by names such as ``cuda.0``; empty where none is in use.
        numpy: state of NumPy's generator.
        python: state of Python's generator.
    """

    torch: Tensor
    devices: dict[str, Tensor]
    numpy: Any
    python: Any

    @classmethod
    def capture(cls) -> RandomState:
        """Return the current states."""
        return cls(torch.get_rng_state(), capture_states(), np.random.get_state(), random.getstate())  # noqa: NPY002

    def restore(self) -> None:
        """Set every generator to this state."""
        torch.set_rng_state(self.torch)
        restore_states(self.devices)
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """Run a block, then restore every random generator.

    Raises:
        InputError: if another thread is in such a block. Its draws and those of this block would mix.
    """
    if not _one_thread.acquire(blocking=False):
        raise InputError(
            "The random generators belong to the whole process, so pvae works in one thread at a time; another thread "
            "uses it now. Wait until that thread ends, or use processes, as pvae.compare(workers=2) does."
        )
    try:
        state = RandomState.capture()
        try:
            yield
        finally:
            state.restore()
    finally:
        _one_thread.release()


def seed_generators(seed: int) -> None:
    """Seed all global random generators. Accelerators that are not in use keep no seed for a later use.

    Args:
        seed: the seed.
    """
    torch.default_generator.manual_seed(seed)
    seed_devices(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - user programs may draw from this generator
    random.seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with seeded random generators, then restore every generator.

    Args:
        seed: the seed of all generators inside the block.

    Raises:
        InputError: as for `preserved_randomness`.
    """
    with preserved_randomness():
        seed_generators(seed)
        yield


class Buffers:
    """The buffers of modules, as they were when this object was made.

    Args:
        modules: the modules; buffers of their submodules count too.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        holders = {id(holder): holder for module in modules for holder in module.modules()}.values()
        self._places = [
            (holder, name, buffer, buffer.detach().clone())
            for holder in holders
            for name, buffer in holder._buffers.items()
            if buffer is not None
        ]

    def replaced(self) -> str | None:
        """Return the name of a buffer in the place of which the module has another tensor now, or None."""
        places = self._places
        names = (name for holder, name, buffer, _ in places if holder._buffers.get(name) is not buffer)
        return next(names, None)

    def restore(self) -> None:
        """Set the buffers to their former values, and put those back that have been replaced by other tensors."""
        with torch.no_grad():
            for holder, name, buffer, before in self._places:
                if holder._buffers.get(name) is not buffer:
                    holder._buffers[name] = buffer
                # Writing equal numbers would break a graph that has saved the buffer for its gradient. The comparison
                # is by value because batch normalisation does not count its writes as versions.
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


@contextmanager
def preserved_buffers(*owners: Any) -> Iterator[None]:
    """Run a block, then restore the buffers of modules, such as running averages.

    Args:
        owners: modules; objects of other kinds are ignored.
    """
    buffers = Buffers(owner for owner in owners if isinstance(owner, nn.Module))
    try:
        yield
    finally:
        buffers.restore()


@contextmanager
def evaluating(*owners: Any) -> Iterator[None]:
    """Run a block with modules in evaluation mode, then restore the mode of each submodule.

    Args:
        owners: modules; objects of other kinds are ignored.
    """
    modules = [module for owner in owners if isinstance(owner, nn.Module) for module in owner.modules()]
    in_training = [module for module in modules if module.training]
    try:
        for module in in_training:
            module.training = False
        yield
    finally:
        for module in in_training:
            module.training = True
