"""The file in pvae's cache folder with the fastest libraries that were measured on a machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from filelock import FileLock

from pvae.cache_folder import cache_folder
from pvae.errors import InputError
from pvae.files import write_text
from pvae.outside_files import read_json
from pvae.products.libraries import BLOCKS_OF_SCIPY, EACH_ALONE, PRODUCTS, TRANSPOSED_BLOCKS

__all__ = ["add_choices", "are_choices", "choices_path", "read_choices"]

#: The version of the method of the choices. A file of another version is not read.
_VERSION = 2
#: Bytes of the file; a choice takes about 60.
_MOST_BYTES = 10_000_000
#: The longest time to wait for another process that writes the file.
_SECONDS_FOR_LOCK = 2.0
_NAMES = {*PRODUCTS, EACH_ALONE, BLOCKS_OF_SCIPY, TRANSPOSED_BLOCKS}


def choices_path(machine: Mapping[str, str]) -> Path:
    """Return the path of the file for a machine.

    Args:
        machine: the identity of the machine, from `machine_identity`.
    """
    text = json.dumps([_VERSION, dict(machine)], sort_keys=True)
    return cache_folder() / "products" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def read_choices(machine: Mapping[str, str]) -> dict[str, str]:
    """Return the library for each kind of product; empty if there is no file, or it is damaged or from another machine.

    Args:
        machine: the identity of the machine.
    """
    try:
        content = read_json(choices_path(machine), most=_MOST_BYTES)
    except (InputError, OSError, ValueError, RuntimeError):
        return {}
    if not isinstance(content, dict) or content.get("machine") != dict(machine) or content.get("version") != _VERSION:
        return {}
    choices = content.get("choices")
    return dict(choices) if are_choices(choices) else {}


def are_choices(value: Any) -> TypeGuard[Mapping[str, str]]:
    """Return whether a value is a mapping from kinds of products, as texts, to names of libraries or ways."""
    if not isinstance(value, Mapping):
        return False
    return all(isinstance(name, str) and name in _NAMES for name in value.values())


def add_choices(machine: Mapping[str, str], choices: Mapping[str, str]) -> dict[str, str]:
    """Add choices to the file; return all its choices. Choices that the file has already are kept.

    If the file cannot be written, the choices are only for this process.

    Args:
        machine: the identity of the machine.
        choices: the library for each kind of product.
    """
    try:
        path = choices_path(machine)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=_SECONDS_FOR_LOCK):
            joined = {**choices, **read_choices(machine)}
            content = {"version": _VERSION, "machine": dict(machine), "choices": joined}
            write_text(path, json.dumps(content, indent=1, sort_keys=True))
    except (OSError, RuntimeError):  # the folder cannot be written, or another process has the lock
        return {**choices, **read_choices(machine)}
    return joined
