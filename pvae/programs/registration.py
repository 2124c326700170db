"""Registration of module parameters in Pyro's parameter store, by identity.

Pyro finds the parameters of a module by name, in a global store. If a name refers to an old tensor (after
``deepcopy``, a replaced submodule, ``load_state_dict(assign=True)``, or a second instance), `pyro.infer.SVI` trains
the wrong tensor, or none, without an error. With this file the store always holds the tensor that the module holds. No
other file of pvae uses private attributes of the store.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints

__all__ = [
    "MODULE_DIVIDER",
    "Registration",
    "forget",
    "forget_weak_references",
    "register",
    "registered",
    "rename",
]

_NAME_ATTRIBUTE = "_pvae_name"
#: The separator of the name of a module and the name of its parameter in the store, as in Pyro.
MODULE_DIVIDER = "$$$"
_counter = itertools.count()


class _OwnerReference:
    """A weak reference to the module that a name belongs to; copies and pickles of it refer to nothing."""

    def __init__(self, module: nn.Module | None = None) -> None:
        self._reference = None if module is None else weakref.ref(module)

    def __call__(self) -> nn.Module | None:
        return None if self._reference is None else self._reference()

    def __reduce__(self) -> tuple[type[_OwnerReference], tuple[()]]:
        return (_OwnerReference, ())


def _instance_name(module: nn.Module) -> str:
    """Return a name that no other instance has.

    A copy has the attribute with its original's name; it gets a new name, because it is another object.
    """
    named = module.__dict__.get(_NAME_ATTRIBUTE)
    if named is None or named[1]() is not module:
        named = (f"{type(module).__name__}-{next(_counter)}", _OwnerReference(module))
        module.__dict__[_NAME_ATTRIBUTE] = named
    return named[0]


def rename(module: nn.Module) -> dict[str, str]:
    """Give every PyroModule inside `module` a name that starts with the name of this instance.

    Without this, the PyroModules of two instances have equal names and share their parameters.

    Returns:
        The former names, by path.
    """
    name = _instance_name(module)
    before = {}
    for path, child in module.named_modules():
        if isinstance(child, PyroModule):
            before[path] = child._pyro_name
            child._pyro_name = f"{name}.{path}" if path else name
    return before


def _store_entries(module: nn.Module, name: str) -> list[tuple[str, Tensor, constraints.Constraint]]:
    """Return the entries of the store for the parameters of a module: name, unconstrained tensor, constraint.

    Args:
        module: the module.
        name: the name of the instance, from `_instance_name`.
    """
    seen: set[int] = set()
    entries: list[tuple[str, Tensor, constraints.Constraint]] = []
    for path, child in module.named_modules():
        constrained = child._pyro_params if isinstance(child, PyroModule) else {}
        for key, parameter in child._parameters.items():
            if parameter is None or not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            plain = key.removesuffix("_unconstrained")
            if plain in constrained:
                entries.append((".".join(filter(None, (name, path, plain))), parameter, constrained[plain][0]))
            else:
                entry_name = name + MODULE_DIVIDER + ".".join(filter(None, (path, key)))
                entries.append((entry_name, parameter, constraints.real))
    return entries


def forget(names: Iterable[str]) -> None:
    """Remove entries of the current store by name.

    Pyro's own method fails if two names share a tensor.
    """
    store = pyro.get_param_store()
    for name in list(names):
        store._param_to_name.pop(store._params.pop(name), None)
        store._constraints.pop(name, None)


def register(module: nn.Module) -> dict[int, str]:
    """Put the parameters of `module` into the store by identity; return their names there by ``id``."""
    store = pyro.get_param_store()
    prefix = _instance_name(module)
    names: dict[int, str] = {}
    for name, parameter, constraint in _store_entries(module, prefix):
        names[id(parameter)] = name
        if store._params.get(name) is not parameter:
            store._params[name] = parameter
            store._param_to_name[parameter] = name
            store._constraints[name] = constraint
    current = set(names.values())
    prefixes = (f"{prefix}.", prefix + MODULE_DIVIDER)
    replaced = [name for name in store._params if name.startswith(prefixes) and name not in current]
    if replaced:
        forget(replaced)
    return names


class Registration(Messenger):
    """A handler that makes the parameters of `module` appear as ``param`` sites, under names of this instance.

    A statement ``pyro.module("decoder", self.decoder)`` of the program gets the tensors of the module, whatever the
    store holds under that name. The sample sites of PyroModules inside keep their plain names, because only parameters
    have to differ between instances.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.names: dict[int, str] = {}
        self._instance_name = ""
        self._former_names: dict[str, str] = {}

    def __enter__(self) -> Any:
        self._former_names = rename(self.module)
        self.names = register(self.module)
        self._instance_name = f"{_instance_name(self.module)}."
        for name in self.names.values():
            pyro.param(name)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        children = dict(self.module.named_modules())
        for path, name in self._former_names.items():
            if path in children:
                children[path]._pyro_name = name

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"].removeprefix(self._instance_name)
        # A PyroModule that is a program itself keeps the names that it has outside a pair.
        for prefix in ("model_program.owner.", "guide_program.owner."):
            name = name.removeprefix(prefix)
        msg["name"] = name

    def _pyro_param(self, msg: Any) -> None:
        initial: Any = msg["args"][1] if len(msg["args"]) > 1 else msg["kwargs"].get("init_tensor")
        name = self.names.get(id(initial)) if isinstance(initial, nn.Parameter) else None
        if name is not None:
            initial.unconstrained = weakref.ref(initial)
            msg["name"], msg["value"], msg["done"] = name, initial, True


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
