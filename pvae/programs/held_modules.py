"""The modules that a program uses without being a part of them, as functions with ``pyro.module`` do."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

from torch import Tensor, nn

from pvae.loaded_names import loaded_names

__all__ = ["find_held_modules"]

#: The search ends after more objects than this, and leaves out containers with more elements.
_MOST_OBJECTS = 10_000
_LARGEST_CONTAINER = 1000
_OF_LIBRARIES = {"torch", "pyro", "numpy", "scipy", "pandas", "pvae", *sys.stdlib_module_names} - {"__main__"}
_LEAVES = (bool, int, float, complex, str, bytes, type(None), Tensor)

#: The attributes of every module; its submodules are no modules that pvae does not know of.
_OF_MODULES = frozenset(vars(nn.Module()))
_Labelled = tuple[str, Any]


def find_held_modules(program: Any, owner: nn.Module | None) -> dict[str, nn.Module]:
    """Return the modules that a program reaches by closures, globals, arguments of partials and attributes of objects.

    These modules are in no module that pvae knows of. Their parameters are trained if the program registers them. They
    need the same training mode, precision and device as other modules, and their buffers belong to the checkpoints.

    Args:
        program: a callable with Pyro statements.
        owner: the module that holds the program, if there is one; its own submodules are left out.

    Returns:
        The modules by the names of the variables that hold them.
    """
    inside = set() if owner is None else {id(module) for module in owner.modules()}
    held: dict[str, nn.Module] = {}
    visited: set[int] = set()
    pending: deque[_Labelled] = deque([("", program)])
    while pending and len(visited) < _MOST_OBJECTS:
        label, value = pending.popleft()
        if isinstance(value, _LEAVES) or id(value) in visited:
            continue
        visited.add(id(value))
        if isinstance(value, nn.Module) and id(value) not in inside:
            inside |= {id(module) for module in value.modules()}
            name = label or type(value).__name__
            held[name if name not in held else f"{name}#{len(held)}"] = value
        pending.extend(_parts(label, value))
    return held


def _is_of_library(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in _OF_LIBRARIES


def _parts(label: str, value: Any) -> Iterator[_Labelled]:
    """Yield what a program reaches by a value, each with the name of its variable."""
    if isinstance(value, FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, MethodType):
        yield "", value.__func__
        yield "", value.__self__
    elif isinstance(value, functools.partial):
        yield "", value.func
        yield from _elements(label, value.args)
        yield from value.keywords.items()
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from _elements(label, value) if len(value) <= _LARGEST_CONTAINER else ()
    elif isinstance(value, Mapping):
        items = value.items() if len(value) <= _LARGEST_CONTAINER else ()
        yield from ((f"{label}.{key}", element) for key, element in items)
    elif not isinstance(value, type | ModuleType):
        yield from _parts_of_object(value)


def _elements(label: str, values: Any) -> Iterator[_Labelled]:
    """Yield the elements of a container, each with its number."""
    return ((f"{label}.{index}", element) for index, element in enumerate(values))


def _parts_of_function(function: FunctionType) -> Iterator[_Labelled]:
    """Yield what a function holds in its closure and its defaults, and the globals that its code loads."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # the cell is empty
            continue
    yield from _elements(function.__name__, function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    yield from vars(function).items()
    if _is_of_library(function.__module__):
        return
    loaded = loaded_names(function.__code__)
    for name in sorted(loaded.of_globals & function.__globals__.keys()):
        value = function.__globals__[name]
        yield name, value
        if isinstance(value, ModuleType) and not _is_of_library(value.__name__):
            attributes = vars(value)
            yield from ((f"{name}.{key}", attributes[key]) for key in sorted(loaded.all & attributes.keys()))


def _parts_of_object(value: Any) -> Iterator[_Labelled]:
    """Yield the attributes of an object of a user's class, and the functions of this class."""
    kind = type(value)
    if isinstance(value, SimpleNamespace) or not _is_of_library(kind.__module__):
        attributes = list(getattr(value, "__dict__", {}).items())
        yield from (
            (name, part) for name, part in attributes if name not in _OF_MODULES and not name.startswith("_pvae")
        )
        for base in kind.__mro__:
            if not _is_of_library(base.__module__):
                yield from (("", function) for function in vars(base).values() if isinstance(function, FunctionType))
