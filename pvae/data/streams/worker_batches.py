"""Read the batches of a loader of PyTorch, each after the generators are seeded, here or in worker processes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils.data import DataLoader

from pvae.data.streams.own_generators import OwnGenerators
from pvae.data.streams.shared_slots import SharedSlots
from pvae.data.streams.stored_rows import collated
from pvae.randomness import seed_generators

__all__ = ["BatchKey", "SeededItems", "WorkerPool"]

#: The seed of a batch and the numbers of its items.
BatchKey: TypeAlias = tuple[int, list[int]]

#: The largest number of bytes, and of batches, that a worker sends at once.
_MOST_BYTES = 4 * 2**20
_MOST_BATCHES = 16
#: The time that a worker may take for the batches of a message. Small batches are sent together, because each message
#: takes time; batches with slow transforms are sent one by one, as soon as they are ready.
_MOST_SECONDS = 2e-3
#: The largest number of bytes of all slots; larger batches are sent in PyTorch's way.
_MOST_BYTES_OF_SLOTS = 128 * 2**20
#: The extra bytes of a slot, for the gaps between tensors.
_SPARE_BYTES = 2**14


@dataclass(frozen=True)
class _Group:
    """Whole batches that a worker reads for one message.

    Attributes:
        slot: the number of the slot that the batches are written into; None for none.
        keys: the batches.
    """

    slot: int | None
    keys: list[BatchKey]


@dataclass(frozen=True)
class _Message:
    """Whole batches from a worker.

    Attributes:
        slot: the slot that has the tensors of the batches; None if they are in `contents`.
        contents: the batches, from `SharedSlots.put`.
        seconds: the shortest time in which the worker read one of the batches.
    """

    slot: int | None
    contents: list[Any]
    seconds: float


class SeededItems:
    """A data set of groups of whole batches; before each batch the random generators are seeded.

    A function ``worker_init_fn`` gets this object as the data set of its worker, so all other attributes are those of
    the user's data set.

    Args:
        dataset: the data set of the user.
        collate: as for `pvae.data.streams.stored_rows.collated`.
        slots: the slots for the tensors of groups; None if no group has a slot.
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any] | None, slots: SharedSlots | None) -> None:
        self.__dict__.update(_seeded_dataset=dataset, _seeded_collate=collate, _seeded_slots=slots)

    def __getitem__(self, group: _Group) -> _Message:
        own = self.__dict__
        if "_seeded_generators" not in own:  # a function worker_init_fn may have made new generators
            own["_seeded_generators"] = OwnGenerators(self._seeded_dataset)
        contents: list[Any] = []
        seconds: list[float] = []
        end = 0
        for seed, numbers in group.keys:
            start = time.perf_counter()
            seed_generators(seed)  # the generators of a worker process
            own["_seeded_generators"].seed(seed)
            content = collated(self._seeded_dataset, numbers, self._seeded_collate)
            if group.slot is not None:
                content, end = self._seeded_slots.put(group.slot, content, end)
            contents.append(content)
            seconds.append(time.perf_counter() - start)
        return _Message(group.slot, contents, min(seconds))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_seeded_"):
            raise AttributeError(name)
        return getattr(self._seeded_dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._seeded_dataset, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Groups:
    """A sampler of the groups of batches of an epoch, which gives each group a free slot.

    Args:
        workers: the number of workers.
        most: the largest number of batches of a group.
        slots: the number of slots.

    Attributes:
        received: the number of groups of this epoch that the training process has taken.
        seconds: the time of a worker for a batch, without waiting for a core.
    """

    def __init__(self, workers: int, most: int, slots: int) -> None:
        self._workers, self._most, self._slots = workers, most, slots
        self._keys: list[BatchKey] = []
        self.received = 0
        self.seconds = math.inf

    def start(self, keys: list[BatchKey]) -> None:
        """Begin an epoch of these batches. At this time, no worker uses a slot."""
        self._keys, self.received = keys, 0

    def finish(self, message: _Message) -> None:
        """Free the slot of the group that was sent first, after its batches are copied."""
        self.received += 1
        # The shortest time is kept, because a worker may have waited for a core.
        self.seconds = max(1e-6, min(message.seconds, 1.5 * self.seconds))

    def __iter__(self) -> Iterator[_Group]:
        start = 0
        for number in itertools.count():
            if start == len(self._keys):
                return
            stop = start + self._size(number, len(self._keys) - start)
            is_free = number - self.received < self._slots
            yield _Group(number % self._slots if is_free else None, self._keys[start:stop])
            start = stop

    def _size(self, number: int, left: int) -> int:
        """Return the number of batches in a group: small at the start of an epoch, so the training does not wait."""
        in_time = int(_MOST_SECONDS / self.seconds)
        return max(1, min(self._most, in_time, 2 ** (number // self._workers), -(-left // self._workers)))


class WorkerPool:
    """The workers that read the batches.

    Args:
        loader: the loader of the user, with the settings of its workers.
        collate: as for `pvae.data.streams.stored_rows.collated`.
        bytes_of_batch: the memory of the tensors of a batch.
        pin_memory: whether the tensors in slots are copied into pinned memory, for a copy to CUDA.

    Attributes:
        is_reading: whether an epoch is being read; the workers are then not free for another epoch.
    """

    def __init__(
        self,
        loader: DataLoader,
        collate: Callable[[list[Any]], Any] | None,
        bytes_of_batch: int,
        *,
        pin_memory: bool,
    ) -> None:
        most = max(1, min(_MOST_BATCHES, _MOST_BYTES // max(1, bytes_of_batch)))
        if collate is not None:  # batches of different sizes, which may be large and take long
            most, bytes_of_batch = 1, 2 * bytes_of_batch
        self._pin_memory = pin_memory
        self._slots: SharedSlots | None = None
        count = (loader.prefetch_factor or 0) * loader.num_workers + 1  # one more than the messages in transit
        if count * bytes_of_batch <= _MOST_BYTES_OF_SLOTS:
            most = max(1, min(most, _MOST_BYTES_OF_SLOTS // (count * max(1, bytes_of_batch))))
            self._slots = SharedSlots.where_they_fit(count, most * bytes_of_batch + _SPARE_BYTES)
        self._sampler = _Groups(loader.num_workers, most, 0 if self._slots is None else count)
        self.is_reading = False
        self._loader: DataLoader = DataLoader(
            SeededItems(loader.dataset, collate, self._slots),  # type: ignore[arg-type]
            batch_size=None,
            sampler=self._sampler,
            collate_fn=_unchanged,
            num_workers=loader.num_workers,
            worker_init_fn=loader.worker_init_fn,
            prefetch_factor=loader.prefetch_factor,
            multiprocessing_context=loader.multiprocessing_context,
            timeout=loader.timeout,
            persistent_workers=loader.persistent_workers,
            generator=torch.Generator().manual_seed(0),  # the generator of the process belongs to the training
        )

    def read(self, keys: list[BatchKey]) -> Iterator[Any]:
        """Yield the batches of an epoch in order.

        Args:
            keys: the batches.
        """
        self._sampler.start(keys)
        self.is_reading = True
        try:
            for message in self._loader:
                for content in message.contents:
                    yield self._copied(message.slot, content)
                self._sampler.finish(message)
        except Exception as error:
            # The frames of the traceback refer to the error and to the queues of the workers. In such a reference
            # cycle, the queues are closed before the workers get the message to stop, and PyTorch waits 5 s for each
            # worker.
            error.__traceback__ = None
            raise
        finally:
            self.is_reading = False

    def _copied(self, slot: int | None, content: Any) -> Any:
        """Return a batch with its tensors in memory of this process."""
        if slot is None or self._slots is None:
            return content
        return self._slots.copy(slot, content, pinned=self._pin_memory)


def _unchanged(content: Any) -> Any:
    return content
