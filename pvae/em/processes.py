"""Several processes, each with its own rows: one all-reduce of float64 numbers in each step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, distributed

from pvae.em.base import Statistics
from pvae.errors import InputError

__all__ = ["Processes"]


class Processes:
    """What the processes of a group settle together; where there is no group, nothing.

    Args:
        together: whether the process group of ``torch.distributed`` is to be used.

    Raises:
        InputError: if a group is to be used and none is initialised.
    """

    def __init__(self, together: bool = False) -> None:
        if together and not (distributed.is_available() and distributed.is_initialized()):
            raise InputError(
                "distributed=True needs an initialised process group; call torch.distributed.init_process_group "
                "first, in a script run by torchrun."
            )
        self.together = together

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a float64 tensor over the processes."""
        if self.together:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def statistics(self, own: Statistics) -> Statistics:
        """Return the statistics of the data of all processes, by one all-reduce."""
        if not self.together:
            return own
        names = ("counts", "first", "second", "log_likelihood", "weight")
        parts = [getattr(own, name) for name in names]
        summed = self.total(torch.cat([part.reshape(-1) for part in parts]))
        pieces = summed.split([part.numel() for part in parts])
        found = {name: piece.reshape(part.shape) for name, piece, part in zip(names, pieces, parts, strict=True)}
        return replace(own, **found)

    def from_first(self, values: Tensor) -> Tensor:
        """Return the first process's values, on all."""
        if self.together:
            values = values.contiguous().clone()
            distributed.broadcast(values, src=0)
        return values

    def gathered(self, values: Tensor) -> Tensor:
        """Return the rows of all processes, in their order."""
        if not self.together:
            return values
        own = values.new_zeros(distributed.get_world_size())
        own[distributed.get_rank()] = len(values)
        counts: list[int] = self.total(own).long().tolist()
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values
        found = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(found, padded)
        return torch.cat([each[:count] for each, count in zip(found, counts, strict=True)])
