"""The names that the code of a function loads: its globals, and the attributes and keys that it may read."""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple

__all__ = ["LoadedNames", "loaded_names"]


class LoadedNames(NamedTuple):
    """The names that a function and the functions inside it load.

    Attributes:
        of_globals: names that are read as globals.
        of_imports: names of modules that the code imports when it runs.
        all: these names, names of attributes, and texts, which may be keys or arguments of ``getattr``.
    """

    of_globals: frozenset[str]
    of_imports: frozenset[str]
    all: frozenset[str]


@functools.lru_cache(maxsize=4096)
def loaded_names(code: CodeType) -> LoadedNames:
    """Return the names that a code object loads; names that it only assigns are not included.

    Args:
        code: the code of a function.
    """
    of_globals: set[str] = set()
    of_imports: set[str] = set()
    names: set[str] = set()
    for instruction in _instructions(code):
        if not isinstance(instruction.argval, str):
            continue
        if instruction.opname.startswith("LOAD_") or instruction.opname == "IMPORT_FROM":
            names.add(instruction.argval)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            of_globals.add(instruction.argval)
        if instruction.opname == "IMPORT_NAME":
            of_imports.add(instruction.argval)
    return LoadedNames(frozenset(of_globals), frozenset(of_imports), frozenset(names))


def _instructions(code: CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
