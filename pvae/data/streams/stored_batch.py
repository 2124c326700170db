"""`StoredBatch`: data that are read when a part of them is taken. It can be used like a `Batch` of all data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pvae.batch import Batch, Index, as_batch
from pvae.data.streams.preparation import Preparation
from pvae.data.streams.same_form import Forms, check_agreement
from pvae.data.streams.structured_batch import StructuredBatch
from pvae.errors import InputError
from pvae.memory import format_bytes, free_bytes
from pvae.structures import is_structure, tensors_of

__all__ = ["Change", "StoredBatch"]

#: A function from a batch to a batch that changes each datum separately.
Change: TypeAlias = Callable[[Batch], Batch]
_CHUNK = 64 * 2**20  # bytes
_ADVICE = "Use fewer data or a machine with more memory; training and evaluation read one batch at a time."


class StoredBatch(Batch):
    """Data that are not in memory. `take` reads some of them, and a field of the batch reads all of them.

    All data that are read have the fields, shapes and types of the first datum, and finite values; otherwise an error
    names the first datum that differs.

    Args:
        prepare: the changes of the arrays of each part that is read.
    """

    __slots__ = ("_cache", "_changes", "_first", "_prepare", "_target")
    _prepare: Preparation
    _changes: tuple[Change, ...]
    _target: torch.device
    _cache: dict[str, Any]
    _first: Forms  # shared by all copies

    def __init__(self, prepare: Preparation) -> None:
        object.__setattr__(self, "_prepare", prepare)
        object.__setattr__(self, "_changes", ())
        object.__setattr__(self, "_target", torch.device("cpu"))
        object.__setattr__(self, "_cache", {})
        object.__setattr__(self, "_first", {})

    def _with(self, **attributes: Any) -> Any:
        """Return a copy with other attributes, which has not read any data."""
        copy = type(self).__new__(type(self))
        for kind in type(self).__mro__:
            for name in getattr(kind, "__slots__", ()):
                if name not in ("_fields", "__weakref__") and hasattr(self, name):
                    object.__setattr__(copy, name, getattr(self, name))
        for name, value in {"_cache": {}, **attributes}.items():
            object.__setattr__(copy, name, value)
        return copy

    @property
    @abstractmethod
    def account(self) -> str:
        """One line about the kind of the data and how they are read."""

    @property
    @abstractmethod
    def classes(self) -> int | None:
        """The number of classes of the labels; None if it is not known without reading all data."""

    @property
    @abstractmethod
    def content(self) -> str:
        """A text that identifies the data, such as a checksum."""

    @property
    def prepare(self) -> Preparation:
        """The changes of the arrays of each part that is read."""
        return self._prepare

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the order of the data."""
        return ()

    @property
    def look_size(self) -> int:
        """The number of data that represent all data if a pass over all would take too long."""
        return 1000

    @property
    def own_batch_size(self) -> int | None:
        """The number of data in a batch, if the source makes its batches itself; else None."""
        return None

    @property
    def varies(self) -> bool:
        """Whether a collate function of the user makes the batches, which may differ in their shapes."""
        return False

    @property
    def has_workers(self) -> bool:
        """Whether processes of a loader read the data."""
        return False

    @property
    def restarts_epochs(self) -> bool:
        """Whether a resumed training reads the epoch that was interrupted from its start."""
        return False

    @abstractmethod
    def take(self, index: Index) -> Batch:
        """Read some of the data.

        Args:
            index: a slice, or positions or a boolean mask over the data.

        Raises:
            InputError: if the data cannot be read or do not fit into memory.
        """

    @abstractmethod
    def subset(self, positions: Tensor) -> StoredBatch:
        """Return some of the data without reading them.

        Args:
            positions: shape (data,).

        Raises:
            InputError: if the source has no order of its data.
        """

    def own_batches(self, size: int, *, seed: int, epoch: int, start: int) -> Iterator[Batch] | None:
        """Return the batches of an epoch if the source makes them itself; else None.

        Args:
            size: data per batch, if the source does not decide it.
            seed: the seed of the run.
            epoch: the number of the epoch.
            start: the number of batches to leave out at the beginning.
        """
        return None

    def own_steps(self) -> int | None:
        """Return the number of batches that the source makes in an epoch; None if it is not known."""
        return None

    def changed(self, change: Change) -> StoredBatch:
        """Return the data with a change of each datum, which is applied to each part when it is read."""
        changed: StoredBatch = self._with(_changes=(*self._changes, change))
        return changed

    def with_preparation(self, prepare: Preparation) -> StoredBatch:
        """Return the data with another preparation, and without changes."""
        prepared: StoredBatch = self._with(_prepare=prepare, _changes=(), _first={})
        return prepared

    def to(self, device: torch.device | str) -> Batch:
        """Return the data with parts that are moved to `device` when they are read."""
        moved: Batch = self._with(_target=torch.device(device))
        return moved

    @property
    def device(self) -> torch.device:
        """The device that parts are moved to."""
        return self._target

    @property
    def form(self) -> Batch:
        """The first datum, on the CPU."""
        if "form" not in self._cache:
            self._cache["form"] = self.to("cpu").take(slice(0, 1))
        form: Batch = self._cache["form"]
        return form

    @property
    def bytes_of_datum(self) -> int:
        """The memory of one datum."""
        return max(1, sum(tensor.nbytes for value in self.form.values() for tensor in tensors_of(value)))

    def chunks(self, size: int = 1 << 14) -> Iterator[Batch]:
        """Yield all data in order, at most `size` at a time, and fewer if each datum is large.

        Args:
            size: the largest number of data at a time.
        """
        return super().chunks(min(size, max(1, _CHUNK // self.bytes_of_datum)))

    def resident(self) -> Batch:
        """Return all data in memory.

        Raises:
            InputError: if they do not fit.
        """
        return Batch(**{name: self[name] for name in self.names})

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.form:
            raise KeyError(name)
        if isinstance(self.form, StructuredBatch):
            raise InputError(
                f"{name} of all data is needed here, but batches of a collate function with fields that are not "
                "tensors cannot be joined. Use functions that work batch by batch, or let the collate function return "
                "tensors."
            )
        if name not in self._cache:
            whole = self._read_field(name)
            if whole.dim() > 1:
                return whole
            self._cache[name] = whole  # labels are read in each epoch
        tensor: Tensor = self._cache[name]
        return tensor.to(self.device)

    def _read_field(self, name: str) -> Tensor:
        """Return a field of all data; the memory for it is checked first."""
        self.require_memory(self.form[name].nbytes * self.size, f"{name} of all {self.size} data")
        return torch.cat([chunk[name] for chunk in self.chunks()])

    def require_memory(self, needed: int, what: str) -> None:
        """Raise InputError if fewer bytes than `needed`, for the object `what`, are free on the device."""
        free = free_bytes(self.device)
        if free is not None and needed > free:
            raise InputError(
                f"{what} needs {format_bytes(needed)} of memory, and {format_bytes(free)} are free on {self.device}. "
                f"{_ADVICE}"
            )

    def __getattr__(self, name: str) -> Tensor:
        if not name.startswith("_") and name in self.form:
            return self[name]
        raise AttributeError(f"The batch has no field {name!r}.")

    def __iter__(self) -> Iterator[str]:
        return iter(self.form)

    def __len__(self) -> int:
        return len(self.form)

    def __contains__(self, name: object) -> bool:
        return name in self.form

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the fields, in order."""
        return self.form.names

    def replace(self, **fields: Tensor) -> Batch:
        """Return all data in memory, with these fields replaced or added.

        Raises:
            InputError: as for `Batch`, or if the data do not fit into memory.
        """
        kept = {name: self[name] for name in self.names if name not in fields}
        return Batch(**{name: fields.get(name, kept.get(name)) for name in (*self.names, *fields)})  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Any, ...]:
        state = {}
        for kind in type(self).__mro__:
            for name in getattr(kind, "__slots__", ()):
                if name not in ("_fields", "_cache", "__weakref__"):
                    state[name] = getattr(self, name)
        return _restored, (type(self), state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.account})"

    def _as_batch(self, fields: Mapping[str, Any]) -> Batch:
        """Return fields as a batch; fields of a user's collate function that are not tensors do not change."""
        if not self.varies or not any(is_structure(value) for value in fields.values()):
            return as_batch(self._prepare(fields))
        if self._prepare.missing:
            raise InputError(
                "missing='mask' needs x as a tensor; a field of these data is not a tensor. Leave the option out."
            )
        return StructuredBatch(fields)

    def _finished(self, fields: Mapping[str, Any], place: str) -> Batch:
        """Return fields that were read as a checked batch, with all changes, on the CPU.

        Args:
            fields: arrays by name.
            place: where they come from, for messages.
        """
        try:
            batch = self._as_batch(fields)
            check_agreement(batch, self._first, has_fixed_shapes=not self.varies)
            for change in self._changes:
                batch = change(batch)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        return batch


def _restored(kind: type[StoredBatch], state: Mapping[str, Any]) -> StoredBatch:
    batch = kind.__new__(kind)
    for name, value in {**state, "_cache": {}}.items():
        object.__setattr__(batch, name, value)
    return batch
