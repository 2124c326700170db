"""Conversion of values to a form that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["finite_or_none", "is_plain", "json_value", "without_numpy"]


def finite_or_none(value: float) -> float | None:
    """Return a number as a float, or None for NaN and infinities, which JSON cannot hold."""
    return float(value) if math.isfinite(value) else None


def json_value(value: Any, default: Callable[[Any], Any] | None = None) -> Any:
    """Return a value in a form that JSON can hold.

    An object with a method ``to_json`` gives the result of that method. Tensors and arrays give numbers and lists,
    tuples and sets give lists, and paths give text. Keys of mappings become text. NaN and infinities become None.

    Args:
        value: the value.
        default: called for an object of any other kind, to return a value in its place; None raises.

    Raises:
        TypeError: for an object of any other kind, without `default`.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return finite_or_none(value)
    if isinstance(value, Mapping):
        return {str(key): json_value(entry, default) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(entry, default) for entry in value]
    return _object_value(value, default)


def _object_value(value: Any, default: Callable[[Any], Any] | None) -> Any:
    if hasattr(value, "to_json") and not isinstance(value, type):
        return json_value(value.to_json(), default)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return json_value(value.tolist(), default)
    if default is None:
        raise TypeError(f"{type(value).__name__} has no JSON form.")
    return default(value)


def flat_values(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested values by names that are joined by a dot; lists become text.

    >>> flat_values({"row": {"value": 1.5, "seeds": [0, 1]}})
    {'row.value': 1.5, 'row.seeds': '0; 1'}

    Args:
        values: values and mappings by name.
        before: the prefix of all names.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_values(value, f"{before}{name}.")
        else:
            flat[before + name] = "; ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return flat


def is_plain(value: Any) -> bool:
    """Return whether a value is None, a text, a boolean, a number of Python, or a tuple, list or dict of those."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_plain, value.values()))
    return value is None or isinstance(value, str | bool | int | float)


def without_numpy(value: Any) -> Any:
    """Return a value with NumPy's numbers and booleans as Python's, inside tuples, lists and dicts too."""
    if isinstance(value, list | tuple):
        return type(value)(map(without_numpy, value))
    if isinstance(value, dict):
        return {key: without_numpy(entry) for key, entry in value.items()}
    # by name, because the command line prints its help without NumPy
    scalar = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if scalar else value
