"""Registration of module parameters in Pyro's parameter store, by identity.

Pyro finds the parameters of a module by name, in a global store. If a name refers to an old tensor (after
``deepcopy``, a replaced submodule, ``load_state_dict(assign=True)``, or a second instance), `pyro.infer.SVI` trains
the wrong tensor, or none, without an error. This file makes sure that the store has the current tensor of the module.
Only this file of pvae uses private attributes of the store.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
from pyro.infer.autoguide import AutoGuide
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints

__all__ = [
    "MODULE_DIVIDER",
    "Registration",
    "forget",
    "forget_weak_references",
    "name_by_path",
    "register",
    "registered",
    "registered_names",
]

#: The separator of the name of a module and the name of its parameter in the store, as in Pyro.
MODULE_DIVIDER = "$$$"
_counter = itertools.count()
_INSTANCE_NAMES: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
_FOUND: weakref.WeakKeyDictionary[nn.Module, _Found] = weakref.WeakKeyDictionary()
# For each registered module: the ``id`` of its tensors, by their name in the store.
_REGISTERED: weakref.WeakKeyDictionary[nn.Module, dict[str, int]] = weakref.WeakKeyDictionary()


def _instance_name(module: nn.Module) -> str:
    """Return a name that is unique to the instance; a copy is another instance."""
    return _INSTANCE_NAMES.setdefault(module, f"{type(module).__name__}-{next(_counter)}")


def name_by_path(module: nn.Module) -> None:
    """Name every PyroModule inside a latent model by its path in it, as a PyroModule names its own submodules.

    A latent model is not a PyroModule. Without this, two of its PyroModules have the same name, and so the same sites.
    A latent model inside has named its own modules already.
    """
    pending = [("", module)]
    while pending:
        prefix, parent = pending.pop()
        for key, child in parent._modules.items():
            path = f"{prefix}{key}"
            if child is None or getattr(child, "_pvae_names_submodules", False):
                continue
            if isinstance(child, PyroModule) and child._pyro_name != path:
                child._pyro_name = path
            pending.append((f"{path}.", child))


@dataclass(frozen=True)
class _Entry:
    """An entry of the store for a parameter of a module.

    Attributes:
        name: the name that Pyro gives it; for a parameter outside all PyroModules, a name of the instance.
        tensor: the unconstrained tensor.
        constraint: its constraint.
    """

    name: str
    tensor: Tensor
    constraint: constraints.Constraint


@dataclass(frozen=True)
class _Found:
    """The entries of a module in the store, cached until a module, a name or a tensor in it changes.

    Attributes:
        parts: the path, the name and the ``id`` of the parameters of each module; they show a change.
        entries: the entries of the store by the ``id`` of their tensors. They hold the tensors, so that no other tensor
            has one of these ``id``.
        autoguides: the prefixes of the names that autoguides in the module have in the store. Such a prefix is the name
            of the class, so the store may have values of another autoguide under it. They are removed.
    """

    parts: list[Any]
    entries: dict[int, _Entry]
    autoguides: tuple[str, ...]


def _find(module: nn.Module) -> _Found:
    """Return the cached entries of a module, which every run of a program needs."""
    parts: list[Any] = []  # a comprehension would be a further call in each step of a training
    for path, child in module.named_modules():
        parts.append((path, child.__dict__.get("_pyro_name"), *map(id, child._parameters.values())))
    former = _FOUND.get(module)
    if former is not None and former.parts == parts:
        return former
    entries = {id(entry.tensor): entry for entry in _entries_of(module, _instance_name(module))}
    autoguides = tuple(f"{child._pyro_name}." for child in module.modules() if isinstance(child, AutoGuide))
    _FOUND[module] = _Found(parts, entries, autoguides)
    return _FOUND[module]


def _entries_of(module: nn.Module, instance: str) -> Iterator[_Entry]:
    """Yield the entries of the store for the parameters of a module, each tensor once.

    Args:
        module: the module.
        instance: the name of the instance, from `_instance_name`.
    """
    seen: set[int] = set()
    prefixes: dict[str, str] = {}
    for path, child in module.named_modules():
        prefixes[path] = prefix = _name_prefix(path, child, prefixes, instance)
        constrained = child._pyro_params if isinstance(child, PyroModule) else {}
        for key, parameter in child._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            plain = key.removesuffix("_unconstrained")
            if plain in constrained:
                yield _Entry(prefix + plain, parameter, constrained[plain][0])
            else:
                yield _Entry(prefix + key, parameter, constraints.real)


def _name_prefix(path: str, child: nn.Module, prefixes: Mapping[str, str], instance: str) -> str:
    """Return the prefix of the names of a module's parameters in Pyro, from the prefix of its parent."""
    if isinstance(child, PyroModule):
        return f"{child._pyro_name}." if child._pyro_name else ""
    if not path:
        return instance + MODULE_DIVIDER
    parent, _, key = path.rpartition(".")
    above = prefixes[parent]
    # A PyroModule registers a plain submodule by a `pyro.module` statement, with a name that ends at the divider.
    return f"{above}{key}." if MODULE_DIVIDER in above else f"{above}{key}{MODULE_DIVIDER}"


def forget(names: Iterable[str]) -> None:
    """Remove entries of the current store by name.

    Pyro's own method fails if two names share a tensor.
    """
    store = pyro.get_param_store()
    for name in list(names):
        store._param_to_name.pop(store._params.pop(name), None)
        store._constraints.pop(name, None)


def _hold(entry: _Entry) -> None:
    """Set the tensor of an entry in the store under its name, and replace any other tensor."""
    store = pyro.get_param_store()
    store._params[entry.name] = entry.tensor
    store._param_to_name[entry.tensor] = entry.name
    store._constraints[entry.name] = entry.constraint


def register(module: nn.Module, program: nn.Module | None = None) -> dict[int, str]:
    """Put the parameters of `module` into the store by identity.

    Args:
        module: the module.
        program: the submodule that runs. If two modules have a parameter of the same name, the store holds the
            parameter of this module.

    Returns:
        The names of the trainable parameters in the store by ``id``.
    """
    found = _find(module)
    entries = found.entries
    is_registered = not found.autoguides and _is_registered(module, entries)
    if not is_registered:
        _replace_registered(module, program, found)
    return {identity: entry.name for identity, entry in entries.items() if entry.tensor.requires_grad}


def _replace_registered(module: nn.Module, program: nn.Module | None, found: _Found) -> None:
    """Set the entries of a module in the store, and remove its former entries."""
    entries = found.entries
    if program is not None and program is not module:
        running = set(map(id, program.parameters()))
        # these are set last, so that they replace others of the same name
        entries = dict(sorted(entries.items(), key=lambda item: item[0] in running))
    store = pyro.get_param_store()
    current = {entry.name for entry in entries.values()}
    former = _REGISTERED.get(module, {})
    forget([name for name, tensor in former.items() if name not in current and id(store._params.get(name)) == tensor])
    if found.autoguides:
        forget([name for name in store if name.startswith(found.autoguides) and name not in current])
    for entry in entries.values():
        if store._params.get(entry.name) is not entry.tensor:
            _hold(entry)
    _REGISTERED[module] = {entry.name: identity for identity, entry in entries.items()}


def registered_names(module: nn.Module) -> list[str]:
    """Return the names that the store has for parameters of a module outside all PyroModules; no other one has them.

    Args:
        module: the module that holds the parameters.
    """
    return [name for name in _REGISTERED.get(module, {}) if MODULE_DIVIDER in name]


def _is_registered(module: nn.Module, entries: Mapping[int, _Entry]) -> bool:
    """Return whether the store holds all entries already, as in most runs; this takes few calls."""
    known = _REGISTERED.get(module, {})
    # if two tensors have the same name, there are fewer names than entries
    if set(known.values()) != entries.keys():
        return False
    return list(map(id, map(pyro.get_param_store()._params.get, known))) == list(known.values())


class Registration(Messenger):
    """A handler that makes the parameters of `module` appear as ``param`` sites, each with the tensor of the module.

    The store is by name, and other modules may have the same names. Inside the block it holds the tensors of `module`
    under the names that Pyro gives them. Parameters outside all PyroModules have no name in Pyro and get a name of this
    instance. The names of sites and modules do not change.

    Args:
        module: the module that holds the parameters.
        program: the submodule that runs, if there is one; see `register`.
    """

    def __init__(self, module: nn.Module, program: nn.Module | None = None) -> None:
        super().__init__()
        self.module, self.program = module, program
        self.names: dict[int, str] = {}

    def __enter__(self) -> Any:
        if getattr(self.module, "_pvae_names_submodules", False):
            name_by_path(self.module)
        self.names = register(self.module, self.program)
        for name in self.names.values():
            pyro.param(name)
        return super().__enter__()

    def _pyro_param(self, msg: Any) -> None:
        initial: Any = msg["args"][1] if len(msg["args"]) > 1 else msg["kwargs"].get("init_tensor")
        if isinstance(initial, nn.Parameter) and id(initial) in self.names:
            _hold(_Entry(msg["name"], initial, constraints.real))
        elif initial is not None and msg["name"] in pyro.get_param_store() and self._is_new(msg["name"]):
            forget([msg["name"]])  # the store holds the tensor of another module of that name

    def _is_new(self, name: str) -> bool:
        """Return whether a PyroModule is adding a constrained parameter of this name, like autoguides."""
        prefix, _, key = name.rpartition(".")
        return any(
            isinstance(child, PyroModule)
            and child._pyro_name == prefix
            and key in child._pyro_params
            and f"{key}_unconstrained" not in child._parameters
            for child in self.module.modules()
        )


def registered(program: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a ``model`` or ``guide`` method, so that each run first registers the parameters of its object."""

    @functools.wraps(program)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with Registration(self):
            return program.__get__(self, type(self))(*args, **kwargs)

    run.__pvae_registered__ = True  # type: ignore[attr-defined]
    return run


def forget_weak_references(module: nn.Module) -> None:
    """Remove the weak references that Pyro sets on parameters; they cannot be pickled. The next run sets them again."""
    for parameter in module.parameters():
        parameter.__dict__.pop("unconstrained", None)
