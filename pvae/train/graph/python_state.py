"""The Python values that programs can read, and that a graph freezes: attributes, globals, closures, items."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from types import CellType
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Holder", "PythonState", "Slots", "attributes_of", "is_plain"]

#: The depth to which two different objects of one class are compared.
_DEPTH = 4
_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic, torch.dtype, torch.device, torch.Size)
_MISSING = object()


def is_plain(value: Any) -> bool:
    """Return whether a value is a number, a text or another value that cannot change, without attributes of a user."""
    return type(value) in _PLAIN or (isinstance(value, _PLAIN) and not attributes_of(value))


class Slots(MutableMapping[str, Any]):
    """The attributes of an object that has slots, by name.

    Args:
        owner: the object.
    """

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        slots = (vars(base).get("__slots__", ()) for base in type(owner).__mro__)
        names = [name for names in slots for name in ((names,) if isinstance(names, str) else names)]
        self.names = [name for name in names if name not in ("__dict__", "__weakref__")]

    def __getitem__(self, name: str) -> Any:
        """Return the attribute."""
        return getattr(self.owner, name)

    def __setitem__(self, name: str, value: Any) -> None:
        """Set the attribute, of a frozen dataclass too."""
        object.__setattr__(self.owner, name, value)

    def __delitem__(self, name: str) -> None:
        """Delete the attribute."""
        object.__delattr__(self.owner, name)

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the attributes that exist."""
        return (name for name in self.names if hasattr(self.owner, name))

    def __len__(self) -> int:
        """Return the number of attributes that exist."""
        return sum(1 for _ in self)


def attributes_of(value: Any) -> dict[str, Any] | None:
    """Return the dictionary of an object's attributes; None if it has none.

    Args:
        value: any object.
    """
    try:
        attributes = vars(value)
    except TypeError:
        return None
    return attributes if isinstance(attributes, dict) else None


@dataclass
class Holder:
    """An object with values that programs can read, and these values.

    Attributes:
        label: the name of the object in messages.
        target: a namespace, a container, a closure cell, a class, an array, or a random generator.
        names: the names that are watched in a namespace; None for all items of a container.
        values: the values by name, as they were when this object was made.
    """

    label: str
    target: Any
    names: frozenset[str] | None = None
    values: dict[Any, Any] = field(init=False)

    def __post_init__(self) -> None:
        """Keep the present values."""
        self.values = self.read()

    def read(self) -> dict[Any, Any]:
        """Return the present values by name, index or key."""
        target = vars(self.target) if isinstance(self.target, type) else self.target
        if isinstance(target, Mapping):
            names = self.names
            return dict(target) if names is None else {name: target[name] for name in target if name in names}
        if isinstance(target, list | deque):
            return dict(enumerate(target))
        if isinstance(target, set):
            return dict.fromkeys(target)
        return {"": _content(target)}

    def find_change(self, captured: frozenset[int]) -> str | None:
        """Return the name of a value that has changed, or None.

        Args:
            captured: the ids of tensors that must be the same object; other tensors only need the same shape and dtype.
        """
        present = self.read()
        for name in self.values.keys() | present.keys():
            former, value = self.values.get(name, _MISSING), present.get(name, _MISSING)
            if former is not value and not _is_same(former, value, captured):
                return self.label + (f".{name}" if self.names is not None else "")
        return None

    def has_new_objects(self) -> bool:
        """Return whether a value is another object now, or the content of an array or a generator has changed."""
        if not isinstance(self.target, Mapping | list | deque | set | type | CellType):
            return self.find_change(frozenset()) is not None
        present = self.read()
        return present.keys() != self.values.keys() or any(present[name] is not self.values[name] for name in present)

    def restore(self) -> None:
        """Set the values to those at the time when this object was made."""
        if not self.has_new_objects():
            return
        present = self.read()
        if isinstance(self.target, list | deque):
            self.target.clear()
            self.target.extend(self.values.values())
        elif isinstance(self.target, set):
            self.target.clear()
            self.target.update(self.values)
        elif isinstance(self.target, type):
            _restore_class(self.target, self.values, present)
        elif isinstance(self.target, Mapping):
            _restore_items(self.target, self.values, present)
        else:
            _set_content(self.target, self.values[""])


def _restore_items(target: Any, values: dict[Any, Any], present: dict[Any, Any]) -> None:
    for name in present.keys() - values.keys():
        del target[name]
    for name, value in values.items():
        if present.get(name, _MISSING) is not value:
            target[name] = value


def _restore_class(target: type, values: dict[Any, Any], present: dict[Any, Any]) -> None:
    for name in present.keys() - values.keys():
        delattr(target, name)
    for name, value in values.items():
        if present.get(name, _MISSING) is not value:
            setattr(target, name, value)


def _content(target: Any) -> Any:
    """Return the value of a closure cell, a copy of an array, or the state of a random generator."""
    if isinstance(target, CellType):
        try:
            return target.cell_contents
        except ValueError:  # the cell is empty
            return _MISSING
    if isinstance(target, np.ndarray):
        return target.copy()
    if isinstance(target, np.random.Generator):
        return target.bit_generator.state
    if isinstance(target, np.random.RandomState):
        return target.get_state(legacy=False)
    return target.getstate() if isinstance(target, random.Random) else target.get_state().numpy().tobytes()


def _set_content(target: Any, value: Any) -> None:
    """Set what `_content` returns."""
    if isinstance(target, CellType):
        if value is not _MISSING:
            target.cell_contents = value
    elif isinstance(target, np.ndarray):
        if not _is_same_array(target, value):
            target[...] = value
    elif isinstance(target, np.random.Generator):
        target.bit_generator.state = value
    elif isinstance(target, random.Random):
        target.setstate(value)
    else:
        target.set_state(torch.frombuffer(bytearray(value), dtype=torch.uint8))


def _is_same_array(first: np.ndarray, second: np.ndarray) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and first.tobytes() == second.tobytes()


def _is_same(former: Any, value: Any, captured: frozenset[int], depth: int = _DEPTH) -> bool:
    """Return whether programs compute the same with either value. The values of tensors are not compared."""
    if former is value:
        return True
    if type(former) is not type(value) or not depth:
        return False
    if isinstance(former, Tensor):
        is_alike = former.shape == value.shape and former.dtype == value.dtype
        return id(former) not in captured and is_alike and former.requires_grad == value.requires_grad
    if is_plain(former):
        return bool(former == value or (former != former and value != value))
    if isinstance(former, np.ndarray):
        return _is_same_array(former, value)
    parts, others = _parts(former), _parts(value)
    if parts is None or others is None or parts.keys() != others.keys():
        return False
    return all(_is_same(parts[name], others[name], captured, depth - 1) for name in parts)


def _parts(value: Any) -> dict[Any, Any] | None:
    """Return the items of a container or the attributes of an object; None if the object has further values."""
    if isinstance(value, dict):
        return dict(value)
    if isinstance(value, list | tuple | deque):
        return dict(enumerate(value))
    if isinstance(value, set | frozenset):
        return dict.fromkeys(value)
    has_other_values = type(value).__module__ in sys.stdlib_module_names or Slots(value).names
    return None if has_other_values else attributes_of(value)


class PythonState:
    """The Python values that programs can read, as they were when this object was made.

    Args:
        holders: the objects with the values.
        is_complete: whether these are all values that the programs can read.
        unstable: a sentence about a value that differs at each run, such as the clock; None if the programs read none.
    """

    def __init__(self, holders: Iterable[Holder], *, is_complete: bool, unstable: str | None = None) -> None:
        self.holders, self.is_complete, self.unstable = list(holders), is_complete, unstable

    def find_change(self, captured: frozenset[int] = frozenset()) -> str | None:
        """Return the name of a value that has changed, or None.

        Args:
            captured: the ids of tensors that a graph holds; other tensors may be replaced by tensors of their shape.
        """
        changes = (holder.find_change(captured) for holder in self.holders)
        return next((change for change in changes if change is not None), None)

    def has_new_objects(self) -> bool:
        """Return whether a value is another object now, even if it is a tensor of the same shape and dtype."""
        return any(holder.has_new_objects() for holder in self.holders)

    def tensors(self) -> list[Tensor]:
        """Return the tensors among the values that are not parameters."""
        values = (value for holder in self.holders for value in holder.values.values())
        return [value for value in values if isinstance(value, Tensor) and not value.requires_grad]

    def restore(self) -> None:
        """Set all values to those at the time when this object was made."""
        for holder in self.holders:
            holder.restore()
