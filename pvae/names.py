"""Names that people type: the nearest known one, and settings after colons."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pvae.errors import InputError

__all__ = ["parse", "unknown", "value"]

_WORDS = {"true": True, "false": False, "none": None}


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not known, which says the nearest one that is.

    Args:
        kind: what the name stands for, such as ``"objective"``.
        name: what came.
        known: every name that would have been accepted.
    """
    names = sorted(str(each) for each in known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    return InputError(f"Unknown {kind} {name!r}{hint} Known: {', '.join(names) or 'none'}.")


def value(text: str) -> Any:
    """Return a setting's value: number, true, false, none, a comma-separated tuple, or the text itself."""
    if "," in text:
        return tuple(value(part) for part in text.split(",") if part.strip())
    text = text.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``"renyi:alpha=0.5:particles=8"`` into its name and its settings.

    Raises:
        InputError: if a setting has no ``=`` or no name, or is given twice.
    """
    name, *settings = text.split(":")
    result: dict[str, Any] = {}
    for setting in settings:
        key, separator, given = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not separator or not key.isidentifier():
            raise InputError(f"Settings are written name:key=value; got {setting!r} in {text!r}.")
        if key in result:
            raise InputError(f"Setting {key!r} is given twice in {text!r}.")
        result[key] = value(given)
    return name.strip(), result
