"""Random numbers of each datum from a separate generator, so that chunks of data do not change them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["DatumNoise", "MoveNoise", "seed_of"]

_NUMBERS_AT_ONCE = 2**14
_MOST_MOVES_AT_ONCE = 16


class MoveNoise(NamedTuple):
    """The random numbers of one move of all chains.

    Attributes:
        momentum: standard normal, shape (chains, batch, numbers).
        log_uniform: logarithms of uniform numbers, float64, shape (chains, batch).
        jitter: uniform in [0.8, 1.2], factors of the step size, shape (chains, batch).
    """

    momentum: Tensor
    log_uniform: Tensor
    jitter: Tensor


def seed_of(*keys: int) -> int:
    """Return a seed for a tuple of whole numbers; different tuples give independent seeds."""
    return int(np.random.SeedSequence(list(keys)).generate_state(1, np.uint64)[0] >> np.uint64(1))


class DatumNoise:
    """The random numbers of moves, from one generator for each datum.

    Args:
        seed: the seed of the evaluation.
        purpose: a number for each use, such as the reverse chains.
        indices: the numbers of the data among all data.
        chains: the number of chains of each datum.
        numbers: the number of unconstrained numbers of a datum.
        like: a tensor with the dtype and the device of the momenta.
    """

    def __init__(
        self, seed: int, purpose: int, indices: Sequence[int], chains: int, numbers: int, like: Tensor
    ) -> None:
        self.generators = [torch.Generator().manual_seed(seed_of(seed, purpose, index)) for index in indices]
        self.chains, self.numbers, self.like = chains, numbers, like
        # It must not depend on the number of data at once, because it decides the order of the draws.
        self.moves_at_once = max(1, min(_MOST_MOVES_AT_ONCE, _NUMBERS_AT_ONCE // (chains * numbers)))
        self.waiting: list[MoveNoise] = []

    def next_move(self) -> MoveNoise:
        """Return the random numbers of the next move."""
        if not self.waiting:
            self.waiting = self._draw()
        return self.waiting.pop(0)

    def _draw(self) -> list[MoveNoise]:
        moves, chains = self.moves_at_once, self.chains
        shape = (moves, chains, self.numbers)
        normal, uniform = [], []
        for generator in self.generators:
            normal.append(torch.randn(shape, generator=generator, dtype=self.like.dtype))
            uniform.append(torch.rand(2, moves, chains, generator=generator, dtype=torch.float64))
        momenta = torch.stack(normal, 2).to(self.like.device)
        log_uniform, jitter = torch.stack(uniform, 3).to(self.like.device)
        factors = (0.8 + 0.4 * jitter).to(self.like.dtype)
        return [MoveNoise(*parts) for parts in zip(momenta, log_uniform.log(), factors, strict=True)]
