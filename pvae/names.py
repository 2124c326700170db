"""Names that users type: the nearest known name in errors, and texts such as ``"renyi:alpha=0.5:particles=8"``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pvae.errors import InputError

__all__ = [
    "in_words",
    "parse",
    "parse_known",
    "parse_setting",
    "printable",
    "require_known",
    "require_settings",
    "short_label",
    "unknown",
    "value",
]

_WORDS = {"true": True, "false": False, "none": None}
_Choice = TypeVar("_Choice")


def unknown(kind: str, name: str, known: Iterable[str], owner: str = "") -> InputError:
    """Return the error for an unknown name; its message gives the nearest known name and all known names.

    Args:
        kind: the kind of object that the name is for, such as ``"objective"``.
        name: the name that was given.
        known: every name that is accepted.
        owner: the object in which the name is looked up, such as ``"mask 'block'"``; empty if `kind` says enough.
    """
    names = sorted(map(str, known))
    spelled = {known_name.lower(): known_name for known_name in reversed(names)}
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    nearest = close or [spelled[match] for match in difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.4)]
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
    place = f" of {owner}" if owner else ""
    return InputError(f"Unknown {kind} {name!r}{place}{hint} Known: {', '.join(names) or 'none'}.")


def printable(text: str) -> str:
    r"""Return a text with every character that is not printable written as Python writes it, such as ``\x1b``.

    Escape codes of terminals and marks that change the direction of writing become visible and have no effect. Line
    breaks stay.
    """
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape", "backslashreplace").decode()
        for sign in text
    )


def in_words(names: Sequence[str]) -> str:
    """Return names as a sentence lists them: ``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def short_label(name: object, most: int = 60) -> str:
    """Return a name for a table or a figure: printable, on one line, and without its middle if it is long.

    Args:
        name: any text of a user, such as the name of a model, or a value.
        most: the greatest number of characters.
    """
    text = " ".join(printable(str(name)).split())
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[len(text) - (most - half - 1) :]}"


def require_known(kind: str, name: object, known: Iterable[str]) -> None:
    """Check that a name is one of several.

    Args:
        kind: the kind of object that the name is for, for the message.
        name: the name that was given.
        known: every name that is accepted.

    Raises:
        InputError: if the name is not known; the message gives the nearest known name.
    """
    names = tuple(known)
    if name not in names:
        raise unknown(kind, str(name), names)


def require_settings(label: str, settings: Iterable[str], known: Iterable[str]) -> None:
    """Check that every setting is known.

    Args:
        label: the owner of these settings, such as ``"mask 'block'"``.
        settings: the names of the settings that were given.
        known: every name that is accepted.

    Raises:
        InputError: if a setting is not known; the message gives the nearest known setting.
    """
    names = tuple(known)
    for setting in settings:
        if setting not in names:
            raise unknown("setting", setting, names, owner=label)


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


def parse_setting(text: str, advice: str) -> tuple[str, Any]:
    """Split ``"hidden-size=3"`` into its key, ``"hidden_size"``, and its value.

    Args:
        text: one setting.
        advice: how settings are written, for the message: a sentence without its full stop.

    Raises:
        InputError: if there is no ``=``, or the key is not a name.
    """
    key, separator, content = text.partition("=")
    key = key.strip().replace("-", "_")
    if not separator or not key.isidentifier():
        raise InputError(f"{advice}; got {text!r}.")
    return key, value(content)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``"renyi:alpha=0.5:particles=8"`` into its name and its settings.

    Raises:
        InputError: if a setting has no ``=`` or no key, or comes twice.
    """
    name, *parts = text.split(":")
    settings: dict[str, Any] = {}
    for part in parts:
        key, content = parse_setting(part, f"Settings are written name:key=value in {text!r}")
        if key in settings:
            raise InputError(f"Setting {key!r} is given twice in {text!r}; keep one.")
        settings[key] = content
    return name.strip(), settings


def parse_known(
    text: str,
    kind: str,
    choices: Mapping[str, _Choice],
    settings_of: Callable[[_Choice], Iterable[str]],
    *,
    further: Iterable[str] = (),
    spelling: Callable[[str], str] = str,
) -> tuple[str, dict[str, Any]]:
    """Split ``"name:key=value"`` and check the name and the keys against a table.

    Args:
        text: the name, with settings after colons.
        kind: the kind of object that the name is for, for messages.
        choices: the table from names to their values, such as classes.
        settings_of: from a value of the table to the keys that it accepts.
        further: names that other code accepts, for the message about an unknown name.
        spelling: turns a name into the spelling of the table, such as `str.lower`.

    Returns:
        The name in the spelling of the table, and the settings.

    Raises:
        InputError: for an unknown name or key (the message gives the nearest), or a setting that is badly written.
    """
    name, settings = parse(text)
    known = spelling(name)
    if known not in choices:
        raise unknown(kind, name, [*choices, *further])
    require_settings(f"{kind} {name!r}", settings, settings_of(choices[known]))
    return known, settings
