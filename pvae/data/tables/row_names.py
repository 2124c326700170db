"""The names of the rows of several frames of pandas that are read together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pvae.errors import InputError

__all__ = ["require_same_order"]


def require_same_order(fields: Mapping[Any, Any]) -> None:
    """Raise InputError for pandas objects with the same names of rows in another order. Fields are joined by position.

    Args:
        fields: the fields by name; other objects than those of pandas are ignored.

    Raises:
        InputError: in this case.
    """
    indices = {
        name: value.index for name, value in fields.items() if type(value).__module__.partition(".")[0] == "pandas"
    }
    first, *others = indices or [None]
    for name in others:
        one, other = indices[first], indices[name]
        if len(one) == len(other) and not one.equals(other) and one.sort_values().equals(other.sort_values()):
            raise InputError(
                f"{first} and {name} have the same names of rows in another order: row 0 of {first} is {one[0]!r}, of "
                f"{name} {other[0]!r}. Fields are joined by position: sort one by the other, as in "
                f"{name}.loc[{first}.index], or call reset_index(drop=True) if the positions are right."
            )
