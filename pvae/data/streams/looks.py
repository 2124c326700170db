"""Some of the data, for checks that do not need all data if these are read in parts."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from pvae.batch import Batch
from pvae.data.streams.stored_batch import StoredBatch

__all__ = ["first_datum", "first_of", "part_of", "some_of", "x_in_parts"]

#: The number of data that are used, if the data can be read only from their start.
_FIRST = 1000


def first_datum(batch: Batch) -> Batch:
    """Return the first datum on the CPU, which shows the fields with their shapes and types.

    Args:
        batch: data in memory or stored.
    """
    return batch.form if isinstance(batch, StoredBatch) else batch.take(slice(0, 1)).to("cpu")


def first_of(batch: Batch, count: int) -> Batch:
    """Return the first data; at most `look_size` if the data are read in parts.

    Args:
        batch: data in memory or stored.
        count: the largest number of data.
    """
    return batch.take(slice(0, min(count, batch.look_size) if isinstance(batch, StoredBatch) else count))


def some_of(batch: Batch) -> Batch:
    """Return data in memory unchanged.

    For other data about `look_size` evenly spaced ones, or the first of an iterable.

    Args:
        batch: data in memory or stored.
    """
    if not isinstance(batch, StoredBatch):
        return batch
    if batch.known_size is None:
        return batch.take(slice(0, batch.look_size))
    return batch.take(slice(0, batch.size, -(-batch.size // batch.look_size)))


def part_of(batch: Batch, positions: Tensor) -> Batch:
    """Return some of the data for passes over parts of them; in memory, unless a collate function makes the parts.

    Args:
        batch: data in memory or stored.
        positions: the positions of the data, shape (data,).
    """
    if isinstance(batch, StoredBatch) and batch.varies:
        return batch.subset(positions)
    return batch.take(positions)


def x_in_parts(batch: Batch) -> Iterator[Tensor]:
    """Yield x of all data in parts; only of the first data if they can be read only from their start.

    Args:
        batch: data in memory or stored.
    """
    if batch.known_size is None:
        yield batch.take(slice(0, _FIRST)).x
        return
    for chunk in batch.chunks():
        yield chunk.x
