"""The search for the Python values that programs can read: it follows the names that their code loads."""

from __future__ import annotations

import builtins
import functools
import operator
import random
import sys
import threading
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pvae.loaded_names import loaded_names
from pvae.train.graph.python_state import Holder, PythonState, Slots, attributes_of, is_plain

__all__ = ["find_reads"]

#: Objects beyond this number, and containers or arrays with more elements, are not watched.
_MOST_OBJECTS = 20_000
_LARGEST_CONTAINER = 100_000
_OF_LIBRARIES = {"torch", "pyro", "numpy", "scipy", "pvae", *sys.stdlib_module_names} - {"__main__"}
#: Packages of the standard library whose objects log, lock or write; they give no numbers to a program.
_NOT_READ = {"logging", "threading", "_thread", "io", "_io", "warnings", "typing", "abc"}
#: Packages of objects that keep numbers where Python does not see them.
_HIDES = {"ctypes", "_ctypes", "h5py", "mmap", "multiprocessing", "pandas", "polars", "pyarrow", "xarray"}
#: Packages of which an object without attributes is a constant, such as a compiled pattern.
_OF_CONSTANTS = {"builtins", "datetime", "decimal", "fractions", "pyro", "re", "torch", "uuid", "zoneinfo"}
#: Types that keep values where Python does not see them, although their package is not one of these.
_HIDING_TYPES = (ContextVar, bytearray, memoryview, array, MappingProxyType)
#: Names by which code reads values outside all objects: files and the environment of the process.
_OUTSIDE = {"open", "environ", "getenv", "read_text", "read_bytes", "loadtxt"}
#: Names by which code reads attributes whose names it computes.
_BY_ANY_NAME = {"getattr", "vars", "__dict__", "globals", "attrgetter", "eval"}
_DATES = {"now", "today", "utcnow"}
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
#: Tensors, submodules and training flags of a module are compared by `pvae.train.parameters.Parameters`.
_OF_MODULES = frozenset({"training", *(name for name in vars(nn.Module()) if name.startswith("_"))})
#: Functions that torch calls when a module runs or is differentiated; no code of the programs loads their names.
_HOOKS_OF_MODULES = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
#: Functions that torch calls with the gradient of a parameter.
_HOOKS_OF_TENSORS = ("_backward_hooks", "_post_accumulate_grad_hooks")
#: The attributes in which wrappers keep the wrapped object.
_PARTS: dict[type, tuple[str, ...]] = {
    functools.partial: ("func", "args", "keywords"),
    functools.cached_property: ("func",),
    property: ("fget",),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
}
_READ_BY_NAME = (operator.attrgetter, operator.methodcaller)
#: Methods that run before a training, or that return only text.
_NOT_RUN = frozenset({"__init__", "__new__", "__init_subclass__", "__repr__", "__str__", "extra_repr"})


def find_reads(roots: Iterable[Any]) -> PythonState:
    """Return the Python values that the programs of some objects can read.

    Attributes, globals and closures count if code that the programs can reach loads their names. So a number that only
    a callback uses is not included.

    Args:
        roots: the objects that have the programs.
    """
    roots = list(roots)
    own = {_package(root.__module__ if isinstance(root, FunctionType) else type(root).__module__) for root in roots}
    names: set[str] = {"model", "guide", "forward", "terms"}
    by_any_name = False
    while True:  # a name may lead to a method, whose code loads more names
        walk = _Walk(frozenset(names), own, by_any_name)
        walk.visit_all(roots)
        if walk.names <= names and walk.reads_by_any_name <= by_any_name:
            is_complete = walk.is_complete and not names & _OUTSIDE
            return PythonState(walk.holders, is_complete=is_complete, unstable=walk.unstable)
        names |= walk.names
        by_any_name = walk.reads_by_any_name


def _package(module: Any) -> str:
    return module.partition(".")[0] if isinstance(module, str) else ""


@functools.lru_cache(maxsize=4096)
def _is_installed(package: str) -> bool:
    """Return whether a package is in a folder of installed packages."""
    module = sys.modules.get(package)
    file = None if module is None else vars(module).get("__file__")
    return file is not None and bool({"site-packages", "dist-packages"} & set(Path(file).parts))


@functools.lru_cache(maxsize=4096)
def _private_names(kinds: tuple[type, ...]) -> frozenset[str]:
    """Return the private attributes of pvae's own classes, which need not be watched."""
    bases = [base for base in kinds if _package(base.__module__) == "pvae"]
    functions = [value for base in bases for value in vars(base).values() if isinstance(value, FunctionType)]
    names = {name for function in functions for name in loaded_names(function.__code__).all}
    return frozenset(name for name in names if name.startswith("_") and not _is_of_syntax(name))


def _is_of_syntax(name: str) -> bool:
    """Return whether Python runs a method by itself, such as ``__getitem__``."""
    return name.startswith("__") and name.endswith("__")


class _Walk:
    """Visits each object once.

    Args:
        known: the names that the code of the programs is known to load.
        own: the packages of the programs, which are not libraries even if they are installed.
        by_any_name: whether that code computes names of attributes, so that it may read any attribute.
    """

    def __init__(self, known: frozenset[str], own: set[str], by_any_name: bool) -> None:
        self.known, self.own, self.by_any_name = known, own, by_any_name
        self.names: set[str] = set()
        self.holders: list[Holder] = []
        self.is_complete = True
        self.reads_by_any_name = False
        self.unstable: str | None = None
        self._visited: dict[int, Any] = {}
        self._pending: deque[tuple[Any, str]] = deque()

    def visit_all(self, roots: Iterable[Any]) -> None:
        """Visit objects and all values that programs can read through them."""
        self._pending.extend((root, type(root).__name__) for root in roots)
        while self._pending:
            value, label = self._pending.popleft()
            if is_plain(value) or isinstance(value, Tensor) or id(value) in self._visited:
                continue
            if len(self._visited) >= _MOST_OBJECTS:
                self.is_complete = False
                return
            self._visited[id(value)] = value
            self._visitor(value)(value, label)
            if isinstance(value, _CONTAINERS) and attributes_of(value):  # of a class that derives from a container
                self._visit_attributes(value, vars(value))

    def _is_of_library(self, module: Any) -> bool:
        package = _package(module)
        return package in _OF_LIBRARIES or (package not in self.own and _is_installed(package))

    def _visitor(self, value: Any) -> Callable[[Any, str], None]:
        for kinds, visitor in (
            (FunctionType, self._visit_function),
            (MethodType, self._visit_method),
            (BuiltinFunctionType, self._visit_builtin),
            (ModuleType, self._visit_module),
            (type, self._visit_class),
            (_CONTAINERS, self._visit_container),
            (np.ndarray, self._visit_array),
            (_GENERATORS, self._visit_generator),
        ):
            if isinstance(value, kinds):
                return visitor
        return self._visit_object

    def _visit_generator(self, generator: Any, label: str) -> None:
        self._hold(generator, label)

    def _hold(self, target: Any, label: str, names: frozenset[str] | None = None) -> Holder:
        holder = Holder(label, target, names)
        self.holders.append(holder)
        return holder

    def _follow(self, holder: Holder) -> None:
        """Visit the values of a holder."""
        for name, value in holder.values.items():
            self._pending.append((value, f"{holder.label}.{name}" if holder.names is not None else holder.label))

    def _visit_function(self, function: FunctionType, label: str) -> None:
        loaded = loaded_names(function.__code__)
        self.names |= loaded.all
        for cell in function.__closure__ or ():
            self._follow(self._hold(cell, f"a variable around {function.__qualname__}"))
        self._pending += [(sys.modules.get(name), name) for name in loaded.of_imports]
        for value in (function.__defaults__, function.__kwdefaults__, vars(function)):
            self._pending.append((value, function.__qualname__))
        if self._is_of_library(function.__module__):
            return
        self.reads_by_any_name |= bool(loaded.all & _BY_ANY_NAME)
        names = frozenset(name for name in loaded.of_globals if name not in vars(builtins))
        holder = self._hold(function.__globals__, str(function.__module__), names)
        self._follow(holder)

    def _visit_method(self, method: MethodType, label: str) -> None:
        self._pending += [(method.__self__, type(method.__self__).__name__), (method.__func__, label)]

    def _visit_builtin(self, function: BuiltinFunctionType, label: str) -> None:
        if function.__module__ == "time":
            self.unstable = f"the programs read the clock ({label})"
        if not isinstance(function.__self__, ModuleType):  # a method of a built-in object, such as a list
            self._pending.append((function.__self__, label))

    def _visit_module(self, module: ModuleType, label: str) -> None:
        if module.__name__ == "time":
            self.unstable = "the programs read the clock (time)"
        elif not self._is_of_library(module.__name__):
            self._follow(self._hold(vars(module), module.__name__, self.known))

    def _visit_class(self, kind: type, label: str) -> None:
        if type(kind) is not type:  # its attributes are attributes of the class too
            self._pending.append((type(kind), label))
        if kind.__module__ == "datetime" and self.known & _DATES:
            self.unstable = "the programs read the clock (datetime)"
        of_libraries = {name for base in kind.__mro__ if self._is_of_library(base.__module__) for name in vars(base)}
        for base in kind.__mro__:
            if not self._is_of_library(base.__module__):
                self.names |= {name for name in vars(base) if name in of_libraries or _is_of_syntax(name)} - _NOT_RUN
                names = None if self.by_any_name else self.known - _NOT_RUN
                self._follow(self._hold(base, base.__qualname__, names))
            elif _package(base.__module__) == "pvae":
                functions = (value for name, value in vars(base).items() if name in self.known)
                self._pending += [(function, label) for function in functions]

    def _visit_container(self, container: Any, label: str) -> None:
        if len(container) > _LARGEST_CONTAINER:
            self.is_complete = False
            return
        if isinstance(container, tuple | frozenset):
            self._pending += [(value, label) for value in container]
        else:
            self._follow(self._hold(container, label))

    def _visit_array(self, array: np.ndarray, label: str) -> None:
        if array.size > _LARGEST_CONTAINER or array.dtype.hasobject:
            self.is_complete = False
            return
        self._hold(array, label)

    def _visit_object(self, value: Any, label: str) -> None:
        kind = type(value)
        if _package(kind.__module__) in _NOT_READ and not isinstance(value, threading.local):
            self._visit_flags(value, label)
            return
        if isinstance(value, weakref.ProxyTypes):
            self.is_complete = False
            return
        if isinstance(value, Iterator):
            self.unstable = f"the programs can advance {label}, an iterator"
        if isinstance(value, weakref.ReferenceType):
            self._pending.append((value(), label))
            return
        self.reads_by_any_name |= isinstance(value, _READ_BY_NAME)
        for part in _PARTS.get(kind, ()):
            self._pending.append((getattr(value, part), label))
        self._pending.append((kind, kind.__qualname__))
        attributes = attributes_of(value)
        if attributes is not None:
            self._visit_attributes(value, attributes)
        slots = Slots(value)
        is_hidden = attributes is None and not slots.names and _package(kind.__module__) not in _OF_CONSTANTS
        if isinstance(value, _HIDING_TYPES) or _package(kind.__module__) in _HIDES or is_hidden:
            self.is_complete = isinstance(value, _READ_BY_NAME) and self.is_complete
        if slots.names and not self._is_of_library(kind.__module__):
            self._follow(self._hold(slots, kind.__qualname__, frozenset(slots.names) & self.known))

    def _visit_flags(self, value: Any, label: str) -> None:
        """Visit the numbers of an event or a semaphore."""
        attributes = attributes_of(value) if _package(type(value).__module__) == "threading" else None
        if attributes is not None:
            numbers = frozenset(name for name, part in attributes.items() if isinstance(part, bool | int))
            self._hold(attributes, label, numbers)

    def _visit_hooks(self, module: nn.Module) -> None:
        """Visit the functions that torch calls with the inputs, the outputs and the gradients of a module."""
        label = f"a hook of {type(module).__name__}"
        hooks = [getattr(module, name, None) for name in _HOOKS_OF_MODULES]
        parameters = [parameter for parameter in module._parameters.values() if parameter is not None]
        hooks += [getattr(parameter, name, None) for parameter in parameters for name in _HOOKS_OF_TENSORS]
        self._pending += [(function, label) for functions in hooks if functions for function in functions.values()]

    def _visit_attributes(self, value: Any, attributes: dict[str, Any]) -> None:
        """Visit the attributes of an object: all if its class is from a library, else those that the programs load."""
        kind = type(value)
        names = self.known
        is_of_other_library = self._is_of_library(kind.__module__) and _package(kind.__module__) != "pvae"
        if self.by_any_name or is_of_other_library:
            names |= frozenset(attributes)
        if isinstance(value, nn.Module):
            self._pending += [(module, type(module).__name__) for module in value._modules.values()]
            self._visit_hooks(value)
            names -= _OF_MODULES
        names -= _private_names(kind.__mro__)
        reads_all = self.by_any_name and not isinstance(value, nn.Module)
        self._follow(self._hold(attributes, kind.__qualname__, None if reads_all else names))
