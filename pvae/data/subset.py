"""`Subset`: a random part of some data, drawn by a seed, so that all models are evaluated on the same data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.data.streams.looks import part_of
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError

__all__ = ["Subset", "draw_subset"]


@dataclass(frozen=True)
class Subset:
    """A random subset of data. Files are often sorted, so their first data are not like the others.

    Args:
        count: the number of data in the subset.
        total: the number of all data; None if the data come from a stream of unknown length. The subset of a stream is
            its first data.
        seed: the seed of the draw. With the same seed, a smaller subset is a part of a larger one.
    """

    count: int
    total: int | None
    seed: int

    @property
    def is_whole(self) -> bool:
        """Whether it contains all data, or all data that exist."""
        return self.total is not None and self.count >= self.total

    def indices(self) -> Tensor:
        """Return the positions of the drawn data among all data, in increasing order, shape (count,)."""
        if self.is_whole or self.total is None:
            return torch.arange(self.count)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(self.total, generator=generator)[: self.count].sort().values

    def rows_of(self, values: Tensor) -> Tensor:
        """Return the rows of the drawn data from numbers of all data; numbers of only the drawn data do not change.

        Args:
            values: one row per datum, shape (total, ...) or (count, ...).
        """
        return values if self.is_whole or len(values) == self.count else values[self.indices()]

    def __str__(self) -> str:
        if self.total is None:
            return f"the first {self.count:,} of a stream"
        if self.is_whole:
            return f"all {self.total:,}"
        return f"{self.count:,} of {self.total:,}, drawn with seed {self.seed}"


def draw_subset(batch: Batch, limit: int | None, seed: int) -> tuple[Batch, Subset]:
    """Return a random subset of data, in their order, and its description.

    Args:
        batch: all data; data from a stream of unknown length are read from its start.
        limit: the largest number of data; None takes all.
        seed: the seed of the draw.

    Raises:
        InputError: for an iterable with a collate function of the user.
    """
    if isinstance(batch, StoredBatch) and batch.known_size is None:
        if batch.varies:
            raise InputError(
                "The first data of an iterable cannot be selected if a collate function makes its batches. Give a data "
                "set with items by number."
            )
        first = batch.resident() if limit is None else batch.take(slice(0, limit))
        return first, Subset(first.size, first.size if limit is None or first.size < limit else None, seed)
    total = batch.size
    subset = Subset(total if limit is None else min(limit, total), total, seed)
    return (batch if subset.is_whole else part_of(batch, subset.indices())), subset
