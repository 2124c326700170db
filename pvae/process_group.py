"""Sums and copies between processes that share the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from pvae.errors import InputError, LostProcessError, first_line

__all__ = ["ProcessGroup", "lost_process"]


@contextmanager
def _one_line_if_lost() -> Iterator[None]:
    """Raise LostProcessError in place of the error of a communication."""
    try:
        yield
    except RuntimeError as error:
        reason = first_line(error).rpartition("cc:")[2].partition("] ")[2] or first_line(error)
        raise lost_process(reason.partition(". ")[0][:200]) from error


def lost_process(reason: str) -> LostProcessError:
    """Return the error of a process that waits for another one in vain.

    Args:
        reason: what is known of the cause.
    """
    return LostProcessError(
        "Another process of the group has ended or has not answered in time, and the processes need each other; see "
        f"its own message ({reason})."
    )


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
        """Return the sum of a tensor over the processes, in the shape of `values`.

        Raises:
            LostProcessError: if another process has ended, or does not answer in time.
        """
        if self.is_distributed:
            values = values.clone()
            self.sum_in_place(values)
        return values

    def sum_in_place(self, values: Tensor) -> None:
        """Replace a tensor by its sum over the processes.

        Raises:
            LostProcessError: if another process has ended, or does not answer in time.
        """
        if self.is_distributed:
            with _one_line_if_lost():
                distributed.all_reduce(values)

    def broadcast(self, values: Tensor) -> Tensor:
        """Return the values of the first process, in the shape of `values`.

        Raises:
            LostProcessError: if another process has ended, or does not answer in time.
        """
        if self.is_distributed:
            values = values.contiguous().clone()
            with _one_line_if_lost():
                distributed.broadcast(values, src=0)
        return values

    def gather_rows(self, values: Tensor) -> Tensor:
        """Return the rows of all processes, in the order of the processes.

        Args:
            values: (own rows, features); the number of rows may differ between processes.

        Returns:
            (rows of all processes, features).

        Raises:
            LostProcessError: if another process has ended, or does not answer in time.
        """
        if not self.is_distributed:
            return values
        own_count = values.new_zeros(distributed.get_world_size())
        own_count[distributed.get_rank()] = len(values)
        counts: list[int] = self.sum(own_count).long().tolist()
        padded = values.new_zeros(max(counts), *values.shape[1:])
        padded[: len(values)] = values
        gathered = [torch.empty_like(padded) for _ in counts]
        with _one_line_if_lost():
            distributed.all_gather(gathered, padded)
        return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])
