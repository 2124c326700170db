"""Read files that pvae may not have written: only regular files of limited size and of the expected form."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pvae.errors import InputError

__all__ = [
    "check_form",
    "parse_whole",
    "read_json",
    "read_limited",
    "read_start",
    "read_toml",
    "require_regular",
    "walk_files",
]

_MOST_DIGITS = 20  # of a whole number and its sign; float() cannot take one of a thousand digits
_MOST_DEPTH = 40  # of lists and tables inside each other
_MOST_VALUES = 2_000_000  # each takes about 100 bytes of memory
_MOST_TABLES = 50_000  # tables and keys of TOML, whose parser takes some 10 microseconds for each
_TABLE = re.compile(rb"""(?m)^[ \t]*+(?:\[|[^\s"'#][^=\n]*+=)|\{""")
# The parser of TOML takes a time that grows with the square of the number of parts of a key. A part is a bare word or
# in quotes; "++" and "*+" keep the search for it linear.
_PART = rb"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rb"""(?<![.\w"'\\-])(?:""" + _PART + rb"[ \t]*+\.[ \t]*+){10}")


def require_regular(path: Path) -> int:
    """Return the size of a regular file, in bytes.

    Args:
        path: the file; a pipe, a device or a folder is refused, and is not opened.

    Raises:
        InputError: if it is not a regular file, or does not exist.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError is for a path with a byte of value 0
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} needs to be a regular file; it is a {_kind(found.st_mode)}. Replace it.")
    return found.st_size


def read_start(path: Path, count: int) -> bytes:
    """Return the first bytes of a regular file.

    Args:
        path: the file.
        count: the number of bytes; a shorter file is returned as a whole.

    Raises:
        InputError: if it is not a regular file, or cannot be read.
    """
    require_regular(path)
    try:
        # does not wait if a pipe has replaced the file since the check
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            return file.read(count)
    except OSError as error:
        raise _unreadable(path, error) from error


def read_limited(path: Path, most: int) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file; a pipe, a device or a folder is refused, and is not opened.
        most: the greatest size that is accepted, in bytes.

    Raises:
        InputError: if it is not a regular file, too large, or cannot be read.
    """
    size = require_regular(path)
    if size > most:
        raise InputError(f"{path} needs to be at most {most} bytes long; it has {size}. Replace it by the right file.")
    return read_start(path, size)


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield what a folder and its subfolders hold, without the folders themselves, in any order.

    Folders that links lead to, and folders that cannot be read, are left out. `Path.rglob` ends with an error if
    folders are nested some hundred levels deep.

    Args:
        folder: the folder.
    """
    waiting = [str(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield Path(entry.path)


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is missing or cannot be read ({getattr(error, 'strerror', None) or error}).")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def read_json(path: Path, most: int) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        most: the greatest size that is accepted, in bytes.

    Raises:
        InputError: if it cannot be read, is not valid JSON, or is nested too deeply.
    """
    content = read_limited(path, most)
    _require_few_values(path, content)
    try:
        value = json.loads(content, parse_int=parse_whole)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is not valid JSON ({_first_line(error)}).") from error
    return _not_too_deep(value, path)


def parse_whole(text: str) -> int:
    """Return a whole number of a JSON file, for ``parse_int`` of `json.loads`.

    Args:
        text: the number.

    Raises:
        ValueError: if it has more digits than a number of 64 bits.
    """
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"an integer has {len(text)} digits")
    return int(text)


def read_toml(path: Path, most: int = 1_000_000) -> dict[str, Any]:
    """Return the content of a TOML file.

    Args:
        path: the file.
        most: the greatest size that is accepted, in bytes.

    Raises:
        InputError: if it cannot be read, is not valid TOML in UTF-8, or is nested too deeply.
    """
    content = read_limited(path, most)
    if _LONG_KEY.search(content):
        raise InputError(f"{path} is damaged: a key has more than 10 parts. Replace it by the right file.")
    if sum(1 for _ in _TABLE.finditer(content)) > _MOST_TABLES:
        raise InputError(f"{path} is damaged: it has more than {_MOST_TABLES} keys. Replace it by the right file.")
    _require_few_values(path, content)
    try:
        value = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is not valid TOML ({_first_line(error)}).") from error
    return dict(_not_too_deep(value, path))


def _require_few_values(path: Path, content: bytes) -> None:
    """Raise InputError if a text holds more values than fit into the memory that a file of settings may need."""
    if sum(map(content.count, (b",", b"[", b"{", b"="))) > _MOST_VALUES:
        raise InputError(f"{path} is damaged: it has more than {_MOST_VALUES} values. Replace it by the right file.")


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
            forms. A key that ends in ``?`` may be absent, and the key ``*`` means all other keys.
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
        # a boolean is an int in Python, but it is not accepted as a number here
        is_right = isinstance(value, types) and (not isinstance(value, bool) or bool in types)
        _require(is_right, path, name, " or ".join(each.__name__ for each in types), value)


def _require(is_right: bool, path: Path, name: str, needed: str, value: Any) -> None:
    if not is_right:
        came = repr(value) if len(repr(value)) < 60 else type(value).__name__
        raise InputError(f"{path} is damaged: {name or 'its content'} needs to be {needed}; it is {came}.")
