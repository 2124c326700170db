"""Sums and copies between processes that share the data: one all-reduce of float64 numbers in each step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, distributed

from pvae.em.base import Statistics
from pvae.errors import InputError

__all__ = ["ProcessGroup"]


class ProcessGroup:
    """The processes that share the data, each with its own rows. One process alone needs no communication.

    Args:
        is_distributed: whether to use the process group of ``torch.distributed``.

    Raises:
        InputError: if a process group is to be used and none is initialised.
    """

    def __init__(self, is_distributed: bool = False) -> None:
        if is_distributed and not (distributed.is_available() and distributed.is_initialized()):
            raise InputError(
                "distributed=True needs an initialised process group; there is none. Call "
                "torch.distributed.init_process_group first, in a script run by torchrun."
            )
        self.is_distributed = is_distributed

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a float64 tensor over the processes, in the shape of `values`."""
        if self.is_distributed:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def sum_statistics(self, own: Statistics) -> Statistics:
        """Return the statistics of the data of all processes, by one all-reduce."""
        if not self.is_distributed:
            return own
        names = Statistics.summed_names()
        parts = [getattr(own, name) for name in names]
        summed = self.sum(torch.cat([part.reshape(-1) for part in parts]))
        pieces = summed.split([part.numel() for part in parts])
        reshaped = [piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True)]
        return replace(own, **dict(zip(names, reshaped, strict=True)))

    def broadcast(self, values: Tensor) -> Tensor:
        """Return the values of the first process, in the shape of `values`."""
        if self.is_distributed:
            values = values.contiguous().clone()
            distributed.broadcast(values, src=0)
        return values

    def gather_rows(self, values: Tensor) -> Tensor:
        """Return the rows of all processes, in the order of the processes.

        Args:
            values: (own rows, features); the number of rows may differ between processes.

        Returns:
            (rows of all processes, features).
        """
        if not self.is_distributed:
            return values
        own_count = values.new_zeros(distributed.get_world_size())
        own_count[distributed.get_rank()] = len(values)
        counts: list[int] = self.sum(own_count).long().tolist()
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values
        gathered = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(gathered, padded)
        return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])
