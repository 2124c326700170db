"""Read files that come from somebody else: only regular files, up to a size, and of the expected form."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvae.errors import InputError

__all__ = ["check_form", "read_json", "read_limited", "read_toml"]

_MOST_DEPTH = 40  # of lists and tables inside each other
# The parser of TOML takes a time that grows with the square of the number of parts of a key.
_LONG_KEY = re.compile(rb"(?:[\w\"'-]+\s*\.\s*){40}")


def read_limited(path: Path, most: int) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file; a pipe, a device or a folder is refused, and is not opened.
        most: the greatest size that is accepted, in bytes.

    Raises:
        InputError: if it is no regular file, too large, or cannot be read.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path} needs to be a regular file; it is a {_kind(found.st_mode)}. Replace it.")
        if found.st_size > most:
            raise InputError(
                f"{path} needs to be at most {most} bytes long; it has {found.st_size}. Replace it by the right file."
            )
        # not waiting, should a pipe take the place of the file in between
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            return file.read(most + 1)[:most]
    except OSError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is missing or cannot be read ({error.strerror}).") from error


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def read_json(path: Path, most: int) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        most: the greatest size that is accepted, in bytes.

    Raises:
        InputError: if it cannot be read, is no JSON, or is nested too deeply.
    """
    content = read_limited(path, most)
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is no JSON ({_first_line(error)}).") from error
    return _not_too_deep(value, path)


def read_toml(path: Path, most: int = 1_000_000) -> dict[str, Any]:
    """Return the content of a TOML file.

    Args:
        path: the file.
        most: the greatest size that is accepted, in bytes.

    Raises:
        InputError: if it cannot be read, is no TOML in UTF-8, or is nested too deeply.
    """
    content = read_limited(path, most)
    if _LONG_KEY.search(content):
        raise InputError(f"{path} is damaged: a key with more than 40 parts. Replace it by the right file.")
    try:
        value = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is no TOML ({_first_line(error)}).") from error
    return dict(_not_too_deep(value, path))


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _not_too_deep(value: Any, path: Path) -> Any:
    """Return the value; raise InputError if its lists and tables are nested too deeply for other code."""
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [inner for outer in level for inner in _elements(outer)]
        if not level:
            return value
    raise InputError(f"{path} is damaged: more than {_MOST_DEPTH} lists and tables inside each other.")


def _elements(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


def check_form(path: Path, value: Any, form: Any, name: str = "") -> None:
    """Check that a value has a form.

    Args:
        path: the file that the value comes from, for the message.
        value: the value.
        form: a type, or a tuple of types; a list of one form, for a list of such values; or a mapping from keys to
            forms. A key that ends in ``?`` may be absent, and the key ``*`` stands for all other keys.
        name: the key that leads to the value, for the message.

    Raises:
        InputError: if the value has another form; the message names the key.
    """
    if isinstance(form, Mapping):
        _require(isinstance(value, Mapping), path, name, "a table", value)
        for key, inner in form.items():
            known = key.removesuffix("?")
            if key == "*":
                for other in value.keys() - {each.removesuffix("?") for each in form}:
                    check_form(path, value[other], inner, f"{name}.{other}".strip("."))
            elif known in value:
                check_form(path, value[known], inner, f"{name}.{known}".strip("."))
            elif key == known:
                raise InputError(f"{path} is damaged: it has no {f'{name}.{known}'.strip('.')}.")
    elif isinstance(form, list):
        _require(isinstance(value, list), path, name, "a list", value)
        for index, element in enumerate(value):
            check_form(path, element, form[0], f"{name}[{index}]")
    else:
        types = form if isinstance(form, tuple) else (form,)
        # a boolean is an int in Python, and no number here
        is_right = isinstance(value, types) and (not isinstance(value, bool) or bool in types)
        _require(is_right, path, name, " or ".join(each.__name__ for each in types), value)


def _require(is_right: bool, path: Path, name: str, needed: str, value: Any) -> None:
    if not is_right:
        came = repr(value) if len(repr(value)) < 60 else type(value).__name__
        raise InputError(f"{path} is damaged: {name or 'its content'} needs to be {needed}; it is {came}.")
