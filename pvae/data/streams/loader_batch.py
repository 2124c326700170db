"""`LoaderBatch`: the batches of a loader of PyTorch, with its workers, sampler, transforms and collate function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from pvae.batch import Batch
from pvae.data.binarise import derived_seed
from pvae.data.item_data import fields_of_item
from pvae.data.streams.prefetch import on_device
from pvae.data.streams.preparation import PLAIN, Preparation
from pvae.data.streams.row_batch import RowBatch
from pvae.data.streams.stored_rows import ItemRows, collated
from pvae.data.streams.worker_batches import BatchKey, WorkerPool
from pvae.errors import InputError
from pvae.randomness import seeded
from pvae.structures import tensors_of

__all__ = ["LoaderBatch", "can_be_indexed", "seeded_order"]


def can_be_indexed(loader: DataLoader) -> bool:
    """Return whether a loader takes items by number, in batches that its sampler lists; otherwise it is only iterated.

    Args:
        loader: the loader.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return False
    if type(loader).__iter__ is not DataLoader.__iter__:
        return False  # a subclass may make its batches in another way
    try:
        return len(loader) >= 0
    except TypeError:  # a sampler without a length may have no end
        return False


class LoaderBatch(RowBatch):
    """The data of a loader of PyTorch over a data set with items by number.

    The order of an epoch and all draws of the transforms depend on the seed of the run, the epoch and the number of the
    batch, but not on the number of workers. A resumed run therefore starts at any batch.

    Args:
        loader: the loader, for which `can_be_indexed` is True.
        prepare: as for `RowBatch`.

    Raises:
        InputError: if the loader has no data.
    """

    __slots__ = ("_loader", "_notes", "_pool")
    _loader: DataLoader
    _notes: tuple[str, ...]
    _pool: list[WorkerPool]

    def __init__(self, loader: DataLoader, prepare: Preparation = PLAIN) -> None:
        collate = None if loader.collate_fn is default_collate else loader.collate_fn
        super().__init__(ItemRows(loader.dataset, collate), prepare)
        object.__setattr__(self, "_loader", loader)
        object.__setattr__(self, "_pool", [])
        first, again = (self._numbers(0, 0) for _ in range(2))
        if not first or not first[0]:
            raise InputError(f"The {type(loader).__name__} has no data. Fill it, or check its sampler.")
        notes = [] if first == again else [_OWN_ORDER.format(type(loader.batch_sampler).__name__)]
        object.__setattr__(self, "_notes", tuple(notes))
        if not _takes_all(loader):
            numbers = sorted({number for batch in first for number in batch})
            object.__setattr__(self, "_positions", torch.tensor(numbers))

    @property
    def account(self) -> str:
        """One line about the kind of the data and how they are read."""
        loader = self._loader
        workers = f"{loader.num_workers} workers" if loader.num_workers else "no workers"
        return (
            f"a {type(loader).__name__} of {self.size} data, {len(loader)} batches of up to {self.own_batch_size}, "
            f"{workers}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the order of the data."""
        return (*self._notes, *super().notes)

    @property
    def own_batch_size(self) -> int:
        """The number of data in a batch."""
        size = self._loader.batch_size or getattr(self._loader.batch_sampler, "batch_size", None)
        return int(size) if isinstance(size, int) else max(map(len, self._numbers(0, 0)))

    @property
    def has_workers(self) -> bool:
        """Whether processes of the loader read the data."""
        return bool(self._loader.num_workers)

    def own_steps(self) -> int | None:
        """Return the number of batches of an epoch."""
        return len(self._loader)

    def subset(self, positions: Tensor) -> RowBatch:
        """Return some of the data without reading them; the result has no own order and no workers.

        Args:
            positions: shape (data,).
        """
        plain = RowBatch(self._rows, self._prepare)
        own = self._resolved(positions)
        plain = plain._with(_changes=self._changes, _target=self._target, _first=self._first)
        return plain.subset(own)

    def own_batches(self, size: int, *, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, in the order of the sampler.

        Args:
            size: not used, because the loader has its own size.
            seed: the seed of the run.
            epoch: the number of the epoch.
            start: the number of batches to leave out at the beginning.
        """
        numbers = self._numbers(seed, epoch)
        keys = [
            (derived_seed(seed, "items", epoch, step), chosen) for step, chosen in enumerate(numbers) if step >= start
        ]
        return on_device(self._batches(keys), self.device)

    def _batches(self, keys: list[BatchKey]) -> Iterator[Batch]:
        rows: ItemRows = self._rows  # type: ignore[assignment]
        if len(keys) < 2 or not self._loader.num_workers:
            read: Iterator[Any] = (self._read_here(rows, *key) for key in keys)
        else:
            read = self._workers(rows).read(keys)
        for (_, numbers), content in zip(keys, read, strict=True):
            yield self._checked(
                fields_of_item(content, f"The batch of item {numbers[0]}", keeps_values=self.varies),
                numbers,
            )

    @staticmethod
    def _read_here(rows: ItemRows, seed: int, numbers: list[int]) -> Any:
        """Return a batch, read by this process; its generators are restored."""
        with rows.seeded(seed):
            return collated(rows.dataset, numbers, rows.collate)

    def _workers(self, rows: ItemRows) -> WorkerPool:
        """Return idle workers with the settings of the user's loader; they are kept if the loader keeps its workers."""
        if self._pool and not self._pool[0].is_reading:
            return self._pool[0]
        size = self._bytes_of_item(rows) * self.own_batch_size
        pool = WorkerPool(self._loader, rows.collate, size, pin_memory=self.device.type == "cuda")
        if self._loader.persistent_workers and not self._pool:
            self._pool.append(pool)
        return pool

    def _bytes_of_item(self, rows: ItemRows) -> int:
        """Return the bytes of the tensors of an item as read, before any change of its fields."""
        if "bytes" not in self._cache:
            content = self._read_here(rows, 0, self._numbers(0, 0)[0][:1])
            self._cache["bytes"] = sum(tensor.nbytes for tensor in tensors_of(content))
        size: int = self._cache["bytes"]
        return size

    def _numbers(self, seed: int, epoch: int) -> list[list[int]]:
        """Return the items of each batch of an epoch."""
        sampler: Any = self._loader.batch_sampler
        with seeded_order(self._loader, seed, epoch):
            # PyTorch's own class takes the items one by one, which is slower than reading a batch of a worker.
            if type(sampler) is not BatchSampler:
                return [list(map(int, batch)) for batch in sampler]
            numbers, size = list(map(int, sampler.sampler)), sampler.batch_size
        used = len(numbers) // size * size if sampler.drop_last else len(numbers)
        return [numbers[start : start + size] for start in range(0, used, size)]

    def __reduce__(self) -> tuple[Any, ...]:
        restore, (kind, state) = super().__reduce__()
        return restore, (kind, {**state, "_pool": []})


_OWN_ORDER = (
    "the {} draws its order from its own generator, which is not in a checkpoint: a run that is resumed within an "
    "epoch gets other data than an uninterrupted run"
)


def _takes_all(loader: DataLoader) -> bool:
    """Return whether each epoch of a loader has each item exactly once."""
    sampler = loader.sampler
    if getattr(loader.batch_sampler, "sampler", None) is not sampler or loader.drop_last:
        return False
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    return isinstance(sampler, SequentialSampler)


@contextmanager
def seeded_order(loader: DataLoader, seed: int, epoch: int) -> Iterator[None]:
    """Run a block in which the samplers of a loader draw from seeded generators; restore the generators after it.

    Args:
        loader: the loader.
        seed: the seed of the run.
        epoch: the number of the epoch, which samplers and data sets with a method ``set_epoch`` get.
    """
    number = derived_seed(seed, "epoch", epoch)
    batch_sampler = loader.batch_sampler
    places = [loader.dataset, loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None)]
    generators = [getattr(place, "generator", None) for place in (loader, *places[1:])]
    with ExitStack() as stack:
        for generator in {id(each): each for each in generators if isinstance(each, torch.Generator)}.values():
            stack.callback(generator.set_state, generator.get_state())
            generator.manual_seed(number)
        for place in {id(each): each for each in places}.values():
            set_epoch = getattr(place, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)
        stack.enter_context(seeded(number))
        yield
