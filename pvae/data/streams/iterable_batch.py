"""`IterableBatch`: data that come one after another, from an iterable data set or from a loader that is iterated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate, default_convert

from pvae.batch import Batch, Index
from pvae.data.binarise import derived_seed
from pvae.data.item_data import fields_of_item
from pvae.data.streams.loader_batch import seeded_order
from pvae.data.streams.own_generators import OwnGenerators
from pvae.data.streams.prefetch import on_device
from pvae.data.streams.preparation import Preparation
from pvae.data.streams.same_form import form_text
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError
from pvae.randomness import RandomState, preserved_randomness

__all__ = ["IterableBatch"]

_LOOKED_AT = 100


class IterableBatch(StoredBatch):
    """Data that can only be read from the start, in the order of their source.

    Only the first data can be taken, and the number of data is not known before they are read. A resumed training reads
    the interrupted epoch from its start.

    Args:
        source: an iterable data set, with items that become batches of the size of the training; or a loader, which
            makes its batches itself.
        prepare: as for `RowBatch`.
    """

    __slots__ = ("_source",)
    _source: Any

    def __init__(self, source: Any, prepare: Preparation) -> None:
        super().__init__(prepare)
        object.__setattr__(self, "_source", source)

    @property
    def account(self) -> str:
        """One line about the kind of the data and how they are read."""
        return f"a {type(self._source).__name__}, which is read from its start in each epoch"

    @property
    def classes(self) -> int | None:
        """None, because the labels are not known before they are read."""
        return None

    @property
    def content(self) -> str:
        """The class of the source and the form of its data, because the data may be drawn again."""
        kind = type(self._source)
        return f"{kind.__module__}.{kind.__qualname__};{form_text(self.form)}"

    @property
    def restarts_epochs(self) -> bool:
        """True, because the position within an iterable cannot be restored."""
        return True

    @property
    def varies(self) -> bool:
        """Whether a collate function of the user makes the batches."""
        collate = getattr(self._source, "collate_fn", default_collate)
        return collate not in (default_collate, default_convert)

    @property
    def form(self) -> Batch:
        """The first datum, on the CPU; the first batch, if a collate function of the user makes it."""
        return self.to("cpu").take(slice(0, 1)) if self.varies else super().form

    @property
    def has_workers(self) -> bool:
        """Whether processes of a loader read the data."""
        return bool(getattr(self._source, "num_workers", 0))

    @property
    def known_size(self) -> int | None:
        """None: the number of data is not known."""
        return None

    @property
    def size(self) -> int:
        """The number of data is not known.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"The number of data in a {type(self._source).__name__} is not known before they are read, but it is "
            "needed here. Use a data set with items by number, or load the data with resident=True."
        )

    @property
    def own_batch_size(self) -> int | None:
        """The number of data in the first batch of a loader; None for a data set."""
        if isinstance(self._source, IterableDataset):
            return None
        return next(self._batches(1, seed=0, epoch=0)).size

    def own_batches(self, size: int, *, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """Yield the batches of an epoch.

        Args:
            size: data per batch, if the source is a data set.
            seed: the seed of the run.
            epoch: the number of the epoch.
            start: the number of batches that are read and left out at the beginning.
        """
        batches = self._batches(size, seed=seed, epoch=epoch)
        for _ in range(start):
            next(batches, None)
        return on_device(batches, self.device)

    def subset(self, positions: Tensor) -> StoredBatch:
        """Raise InputError, because the data have no numbers.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"A {type(self._source).__name__} has no data by number, so no split can be drawn from it. Give the splits "
            "separately, as {'train': ..., 'validation': ...}, or validation=0 and test=0."
        )

    def take(self, index: Index) -> Batch:
        """Read the first data; if a collate function of the user makes the batches, it is the first batch.

        Args:
            index: a slice from 0 on.

        Raises:
            InputError: for other data, or if there are no data.
        """
        if not isinstance(index, slice) or index.start not in (0, None) or index.stop is None or index.stop < 1:
            raise InputError(
                f"Only the first data of a {type(self._source).__name__} can be taken. Load it with "
                "resident=True, which reads it once and keeps its data."
            )
        known: Batch | None = self._cache.get("look")
        if known is None or (known.size < index.stop and not self._cache.get("is_all")):
            known = self._look(max(index.stop, _LOOKED_AT))
        return (known if self.varies else known.take(index)).to(self.device)

    def _look(self, count: int) -> Batch:
        """Read at least the first `count` data, or all if there are fewer, and keep them."""
        parts: list[Batch] = []
        batches = self._batches(count, seed=0, epoch=0)
        while sum(part.size for part in parts) < (1 if self.varies else count):
            part = next(batches, None)
            if part is None:
                self._cache["is_all"] = True
                break
            parts.append(part)
        if not parts:
            raise InputError(f"The {type(self._source).__name__} has no data. Fill it.")
        look = parts[0] if self.varies else _joined(parts)
        self._cache["look"] = look
        return look

    def chunks(self, size: int = 1 << 14) -> Iterator[Batch]:
        """Yield all data in order, in the batches of the source.

        Args:
            size: the data of a batch, if the source is a data set.
        """
        return self.own_batches(size, seed=0, epoch=0, start=0)

    def resident(self) -> Batch:
        """Return all data in memory.

        Raises:
            InputError: if they do not fit; reading ends before the memory is full.
        """
        parts: list[Batch] = []
        for number, part in enumerate(self.chunks()):
            if number % 16 == 0:  # twice the data, because they are joined at the end
                held = sum(tensor.nbytes for each in parts for tensor in each.values())
                self.require_memory(
                    held + 32 * self.bytes_of_datum * part.size, f"{type(self._source).__name__}: all data"
                )
            parts.append(part)
        if not parts:
            raise InputError(f"The {type(self._source).__name__} has no data. Fill it.")
        return _joined(parts)

    def _read_field(self, name: str) -> Tensor:
        return self.resident()[name]

    def _batches(self, size: int, *, seed: int, epoch: int) -> Iterator[Batch]:
        for number, content in enumerate(_iterate(self._loader(size), seed, epoch)):
            yield self._finished(
                fields_of_item(content, f"Batch {number}", keeps_values=self.varies), f"Batch {number}"
            )

    def _loader(self, size: int) -> Any:
        source = self._source
        return DataLoader(source, batch_size=size) if isinstance(source, IterableDataset) else source


def _joined(parts: list[Batch]) -> Batch:
    return Batch(**{name: torch.cat([part[name] for part in parts]) for name in parts[0].names})


def _iterate(loader: Any, seed: int, epoch: int) -> Iterator[Any]:
    """Yield the batches of a loader, which draws from seeded generators; those of this process are restored."""
    with OwnGenerators(loader.dataset).seeded(derived_seed(seed, "epoch", epoch)):
        with seeded_order(loader, seed, epoch):
            batches = iter(loader)
            state = RandomState.capture()
        draws_here = not getattr(loader, "num_workers", 0)
        end = object()
        while True:
            if not draws_here:
                content = next(batches, end)
            else:
                with preserved_randomness():
                    state.restore()
                    content = next(batches, end)
                    state = RandomState.capture()
            if content is end:
                return
            yield content
