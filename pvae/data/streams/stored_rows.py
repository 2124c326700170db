"""`Rows`: data by number that are read when they are needed, such as the items of a data set of PyTorch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from pvae.data.item_data import fields_of_item
from pvae.data.streams.own_generators import OwnGenerators
from pvae.errors import InputError
from pvae.randomness import seeded

__all__ = ["ItemRows", "LabelledRows", "Rows", "collated"]


class Rows(ABC):
    """Data by number, from 0 on. Reading does not change them.

    Attributes:
        draws: whether reading may draw random numbers, as in a data set with random transforms.
        varies: whether batches may differ in their shapes, for example with a collate function of the user.
        account: one line about the kind of the data and how they are read.
    """

    draws: bool = False
    varies: bool = False
    account: str = ""

    @property
    @abstractmethod
    def size(self) -> int:
        """The number of data."""

    def seeded(self, seed: int) -> AbstractContextManager[None]:
        """Return a context in which the generators that reading draws from are seeded; they are restored after it.

        Args:
            seed: the seed.
        """
        return seeded(seed) if self.draws else nullcontext()

    @abstractmethod
    def read(self, positions: Tensor) -> Mapping[str, Any]:
        """Return data as arrays by field.

        Args:
            positions: the numbers of the data, shape (data,), in any order.

        Raises:
            InputError: if the data cannot be read.
        """

    def labels(self) -> np.ndarray | None:
        """Return the labels y of all data, shape (data, ...), if they can be read without the data; else None."""
        return None

    @property
    def blocks(self) -> Sequence[int] | None:
        """The first position of each block of data that is best read as a whole; None if any order is equally fast."""
        return None

    @property
    def classes(self) -> int | None:
        """The number of classes of the labels y; None if it is not known without reading all data."""
        return None

    @property
    def identity(self) -> str | None:
        """A text that represents the content if reading it twice may give different data; else None."""
        return None


class LabelledRows(Rows):
    """Rows with labels that are replaced by labels in memory.

    Args:
        rows: the data.
        y: the labels of all data, shape (data, ...).
    """

    def __init__(self, rows: Rows, y: np.ndarray) -> None:
        self.rows, self.y, self.account, self.draws = rows, y, rows.account, rows.draws

    @property
    def size(self) -> int:
        """The number of data."""
        return self.rows.size

    def read(self, positions: Tensor) -> Mapping[str, Any]:
        """Return data with these labels.

        Args:
            positions: the numbers of the data, shape (data,).
        """
        return {**self.rows.read(positions), "y": self.y[positions.numpy()]}

    @property
    def blocks(self) -> Sequence[int] | None:
        """The blocks of the data."""
        return self.rows.blocks

    @property
    def classes(self) -> int | None:
        """One more than the largest label; None if the labels are not whole numbers."""
        return int(self.y.max()) + 1 or None if self.y.ndim == 1 and self.y.dtype.kind in "iu" else None


class ItemRows(Rows):
    """The items of a data set of PyTorch, put together to batches by a collate function.

    Args:
        dataset: an object with ``__len__`` and ``__getitem__``; its items are x, (x, y) or a mapping to fields.
        collate: a function from a list of items to a batch; None for PyTorch's default.
    """

    draws = True

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any] | None = None) -> None:
        self.dataset, self.collate = dataset, collate
        self.generators = OwnGenerators(dataset)
        self.varies = collate is not None
        kind = type(dataset).__name__
        self.account = f"a {kind} of {len(dataset)} data, whose items are read again for each batch"

    @property
    def size(self) -> int:
        """The number of items."""
        return len(self.dataset)

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Run a block with seeded generators, including generators in the data set; they are restored after it.

        Args:
            seed: the seed.
        """
        with seeded(seed), self.generators.seeded(seed):
            yield

    def read(self, positions: Tensor) -> Mapping[str, Any]:
        """Return items as tensors by field.

        Args:
            positions: the numbers of the items, shape (data,).

        Raises:
            InputError: if items differ in shape or in their fields, or are not x, (x, y) or a mapping.
        """
        numbers = positions.tolist()
        return fields_of_item(
            collated(self.dataset, numbers, self.collate), f"The batch of item {numbers[0]}", keeps_values=self.varies
        )

    @property
    def classes(self) -> int | None:
        """The number of classes, if the data set has a list ``classes`` as those of torchvision have; else None."""
        names = getattr(self.dataset, "classes", None)
        return len(names) if isinstance(names, Sequence) and not isinstance(names, str) else None

    @property
    def identity(self) -> str | None:
        """The class of the data set and its number of items, because transforms may change the items."""
        kind = type(self.dataset)
        return f"{kind.__module__}.{kind.__qualname__}:{len(self.dataset)}"


def collated(dataset: Any, numbers: list[int], collate_fn: Callable[[list[Any]], Any] | None) -> Any:
    """Return items of a data set as one batch, like a loader of PyTorch.

    Args:
        dataset: the data set.
        numbers: the numbers of the items.
        collate_fn: the collate function; None for PyTorch's default.

    Raises:
        InputError: if the collate function fails because items differ in shape.
    """
    read_many = getattr(dataset, "__getitems__", None)
    items = read_many(numbers) if callable(read_many) else [dataset[number] for number in numbers]
    try:
        return _default_collate([_plain(item) for item in items]) if collate_fn is None else collate_fn(items)
    except (RuntimeError, TypeError, KeyError) as error:
        difference = _first_difference(items, numbers)
        if difference is None:
            raise
        raise InputError(difference) from error


def _default_collate(items: list[Any]) -> Any:
    """Return the batch of PyTorch's default collate function, but in memory of this process, also in a worker.

    In a worker, that function makes a new segment of shared memory for each tensor, which takes longer than all other
    work for small batches.
    """
    return collate(items, collate_fn_map=_COLLATE)


def _stacked(tensors: list[Tensor], *, collate_fn_map: Any = None) -> Tensor:
    first = tensors[0]
    if first.is_nested or first.layout != torch.strided:
        refused: Tensor = default_collate_fn_map[Tensor](tensors, collate_fn_map=collate_fn_map)
        return refused
    return torch.stack(tensors)


#: Functions by type that make a batch of a list of values.
_COLLATE = {**default_collate_fn_map, Tensor: _stacked}


def _plain(item: Any) -> Any:
    """Return an item with its pictures of Pillow as arrays, which the collate function of PyTorch does not accept."""
    if isinstance(item, Tensor):  # checked first, because most items are tensors
        return item
    if isinstance(item, Mapping):
        return {name: _plain(value) for name, value in item.items()}
    if isinstance(item, tuple | list):
        return tuple(_plain(value) for value in item)
    return np.array(item) if hasattr(item, "__array_interface__") and not isinstance(item, np.generic) else item


def _first_difference(items: list[Any], numbers: list[int]) -> str | None:
    """Return a text on the first item that differs in its fields or shapes from the first one; None if all agree."""
    forms = [_form(item, number) for item, number in zip(items, numbers, strict=True)]
    for form, number in zip(forms, numbers, strict=True):
        if form.keys() != forms[0].keys():
            return (
                f"Item {numbers[0]} of the data has the fields {', '.join(forms[0])}; item {number} has "
                f"{', '.join(form)}. Return the same fields for each item."
            )
        for name, shape in form.items():
            if shape != forms[0][name]:
                return (
                    f"{name} of item {number} has shape {shape}; {name} of item {numbers[0]} has {forms[0][name]}. All "
                    "data "
                    "need one shape: pad the short ones and pass a mask, crop the long ones, or give the loader a "
                    "collate_fn."
                )
    return None


def _form(item: Any, number: int) -> dict[str, tuple[int, ...]]:
    return {name: tuple(np.shape(value)) for name, value in fields_of_item(item, f"Item {number}").items()}
