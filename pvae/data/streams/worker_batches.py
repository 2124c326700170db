"""Read the batches of a loader of PyTorch, each after the generators are seeded, here or in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pvae.data.item_data import fields_of_item
from pvae.data.streams.own_generators import OwnGenerators
from pvae.data.streams.stored_rows import collated
from pvae.errors import InputError
from pvae.randomness import seed_generators

__all__ = ["BatchKey", "SeededItems", "WorkerPool"]

#: The seed of a batch and the numbers of its items.
BatchKey: TypeAlias = tuple[int, list[int]]

#: The bytes and the number of the batches that a worker sends at once, at most.
_MOST_BYTES = 8 * 2**20
_MOST_BATCHES = 16
#: Each worker sends at least this number of times in an epoch, so that all workers are busy until its end.
_LEAST_MESSAGES = 8


class SeededItems:
    """A data set whose items are groups of whole batches; before each batch the random generators are seeded.

    Args:
        dataset: the data set of the user.
        collate: as for `pvae.data.streams.stored_rows.collated`.
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any] | None) -> None:
        object.__setattr__(self, "dataset", dataset)
        object.__setattr__(self, "collate", collate)
        object.__setattr__(self, "generators", None)

    def __getitem__(self, group: list[BatchKey]) -> _Group:
        contents = []
        if self.generators is None:  # a function worker_init_fn may have made new ones
            object.__setattr__(self, "generators", OwnGenerators(self.dataset))
        for seed, numbers in group:
            seed_generators(seed)  # those of a worker process
            self.generators.seed(seed)
            contents.append(collated(self.dataset, numbers, self.collate))
        return _Group.of(contents, group)

    # A function worker_init_fn sees this object as the data set of its worker.
    def __getattr__(self, name: str) -> Any:
        if name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Group:
    """Batches on their way from a worker. The cost of a message is that of its tensors, so batches are joined.

    Args:
        contents: the batches; of joined ones the fields, each as one tensor of all batches.
        sizes: the number of data in each of the joined batches; None if they are not joined.
    """

    def __init__(self, contents: Any, sizes: list[int] | None) -> None:
        self.contents, self.sizes = contents, sizes

    @classmethod
    def of(cls, contents: list[Any], group: list[BatchKey]) -> _Group:
        """Return batches as one message; joined, if all have tensors of the same shapes and types as fields."""
        if len(contents) == 1:
            return cls(contents, None)
        try:
            fields = [fields_of_item(content, "A batch") for content in contents]
        except InputError:  # the process of the training raises it again, with the number of the item
            return cls(contents, None)
        sizes = [len(numbers) for _, numbers in group]
        forms = [_forms(each, size) for each, size in zip(fields, sizes, strict=True)]
        if forms[0] is None or any(form != forms[0] for form in forms):
            return cls(contents, None)
        return cls({name: torch.cat([each[name] for each in fields]) for name in fields[0]}, sizes)

    def batches(self) -> list[Any]:
        """Return the batches."""
        if self.sizes is None:
            return list(self.contents)
        parts = {name: tensor.split(self.sizes) for name, tensor in self.contents.items()}
        return [{name: part[number] for name, part in parts.items()} for number in range(len(self.sizes))]


def _forms(fields: Mapping[str, Any], size: int) -> dict[str, Any] | None:
    """Return the shape of a datum and the type of each field; None if one is no tensor of `size` data."""
    if not all(isinstance(value, Tensor) and value.dim() and len(value) == size for value in fields.values()):
        return None
    return {name: (value.shape[1:], value.dtype, value.layout) for name, value in fields.items()}


class _Groups:
    """A sampler of the groups of batches of an epoch."""

    def __init__(self) -> None:
        self.groups: list[list[BatchKey]] = []

    def __iter__(self) -> Iterator[list[BatchKey]]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)


class WorkerPool:
    """The workers that read the batches.

    Args:
        loader: the loader of the user, with the settings of its workers.
        items: the data set of groups of batches.
        bytes_of_batch: the memory of a batch.
        pin_memory: whether batches are put into pinned memory, for a copy to CUDA.
    """

    def __init__(self, loader: DataLoader, items: SeededItems, bytes_of_batch: int, *, pin_memory: bool) -> None:
        # A collate function of the user may be slow and make large batches, which are sent one by one.
        fit = 1 if items.collate is not None else _MOST_BYTES // max(1, bytes_of_batch)
        self._most = max(1, min(_MOST_BATCHES, fit))
        self._sampler = _Groups()
        self._loader: DataLoader = DataLoader(
            items,  # type: ignore[arg-type]
            batch_size=None,
            sampler=self._sampler,
            collate_fn=_unchanged,
            num_workers=loader.num_workers,
            worker_init_fn=loader.worker_init_fn,
            prefetch_factor=loader.prefetch_factor,
            multiprocessing_context=loader.multiprocessing_context,
            timeout=loader.timeout,
            persistent_workers=loader.persistent_workers,
            pin_memory=pin_memory or loader.pin_memory,
            generator=torch.Generator().manual_seed(0),  # the one of the process belongs to the training
        )

    def read(self, keys: list[BatchKey]) -> Iterator[Any]:
        """Yield the batches of an epoch in order.

        Args:
            keys: the batches.
        """
        size = max(1, min(self._most, len(keys) // (_LEAST_MESSAGES * self._loader.num_workers)))
        self._sampler.groups = [keys[start : start + size] for start in range(0, len(keys), size)]
        for group in self._loader:
            yield from group.batches()


def _unchanged(content: Any) -> Any:
    return content
