"""Pyro's parameter store kept in step with modules, by identity. No other file touches the store's private parts.

Pyro finds a module's parameters through a global store, by name. A name that outlives its tensor (after ``deepcopy``,
a replaced submodule, ``load_state_dict(assign=True)``, a second instance) makes `pyro.infer.SVI` train the
wrong tensor, or none, without an error. Here the store's entry is always the very tensor that the module holds.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger, unwrap
from torch import Tensor, nn
from torch.distributions import constraints

__all__ = [
    "Registration",
    "forget",
    "forget_weak_references",
    "register",
    "registered",
    "rename",
    "restore_store",
    "scope",
    "store_tensors",
]

_STORE_ATTRIBUTE = "_pvae_store"
_PENDING_ATTRIBUTE = "_pvae_pending"
_ENTERED_ATTRIBUTE = "_pvae_entered"
_NAME_ATTRIBUTE = "_pvae_name"
_MODULE_DIVIDER = "$$$"
_counter = itertools.count()


class _Owner:
    """Whose a name is: a weak reference, which neither a copy nor a pickle takes along."""

    def __init__(self, module: nn.Module | None = None) -> None:
        self._held = None if module is None else weakref.ref(module)

    def __call__(self) -> nn.Module | None:
        return None if self._held is None else self._held()

    def __reduce__(self) -> tuple[type[_Owner], tuple[()]]:
        return (_Owner, ())


def _instance_name(module: nn.Module) -> str:
    """A name that no other instance has. A copy carries its original's name along, and so is told apart by identity."""
    given = module.__dict__.get(_NAME_ATTRIBUTE)
    if given is None or given[1]() is not module:
        given = (f"{type(module).__name__}-{next(_counter)}", _Owner(module))
        module.__dict__[_NAME_ATTRIBUTE] = given
    return given[0]


def rename(module: nn.Module) -> dict[str, str]:
    """Give every PyroModule inside `module` a name below this instance's own: else those of two instances share.

    Returns:
        The names before, by path.
    """
    name, before = _instance_name(module), {}
    for path, child in module.named_modules():
        if isinstance(child, PyroModule):
            before[path] = child._pyro_name
            child._pyro_name = f"{name}.{path}" if path else name
    return before


def _entries(module: nn.Module) -> Iterator[tuple[str, Tensor, constraints.Constraint]]:
    """Each parameter once, as the store should hold it: name, unconstrained tensor, constraint."""
    name = _instance_name(module)
    seen: set[int] = set()
    for path, child in module.named_modules():
        constrained = child._pyro_params if isinstance(child, PyroModule) else {}
        for key, parameter in child._parameters.items():
            if parameter is None or not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            plain = key.removesuffix("_unconstrained")
            if plain in constrained:
                yield ".".join(filter(None, (name, path, plain))), parameter, constrained[plain][0]
            else:
                yield name + _MODULE_DIVIDER + ".".join(filter(None, (path, key))), parameter, constraints.real


def forget(names: Iterable[str]) -> None:
    """Remove entries of the current store; Pyro's own removal fails where two names share a tensor."""
    store = pyro.get_param_store()
    for name in list(names):
        store._param_to_name.pop(store._params.pop(name), None)
        store._constraints.pop(name, None)


def register(module: nn.Module) -> dict[int, str]:
    """Put the parameters of `module` into the store by identity; return their names there by ``id``."""
    store = pyro.get_param_store()
    names: dict[int, str] = {}
    for name, parameter, constraint in _entries(module):
        names[id(parameter)] = name
        if store._params.get(name) is not parameter:
            store._params[name] = parameter
            store._param_to_name[parameter] = name
            store._constraints[name] = constraint
    own, current = _instance_name(module), set(names.values())
    mine = [each for each in store._params if each.startswith((f"{own}.", own + _MODULE_DIVIDER))]
    forget(each for each in mine if each not in current)
    return names


class Registration(Messenger):
    """While it is entered, the parameters of `module` show as ``param`` sites under their own names.

    A program's own ``pyro.module("decoder", self.decoder)`` is answered with the module's own tensors, whatever the
    store holds under that name. Sample sites of PyroModules inside keep their plain names: only parameters need to be
    told apart between instances.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.names: dict[int, str] = {}
        self._former: dict[str, str] = {}

    def __enter__(self) -> Any:
        self._former = rename(self.module)
        self.names = register(self.module)
        entered = super().__enter__()
        for name in self.names.values():
            pyro.param(name)
        return entered

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        children = dict(self.module.named_modules())
        for path, name in self._former.items():
            if path in children:
                children[path]._pyro_name = name

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"].removeprefix(f"{_instance_name(self.module)}.")
        # a PyroModule that is itself a program keeps the names that it has alone
        for place in ("model_program.owner.", "guide_program.owner."):
            name = name.removeprefix(place)
        msg["name"] = name

    def _pyro_param(self, msg: Any) -> None:
        given: Any = msg["args"][1] if len(msg["args"]) > 1 else msg["kwargs"].get("init_tensor")
        name = self.names.get(id(given)) if isinstance(given, nn.Parameter) else None
        if name is not None:
            given.unconstrained = weakref.ref(given)
            msg["name"], msg["value"], msg["done"] = name, given, True


def registered(program: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a ``model`` or ``guide`` method, so that each run brings the store into step first."""

    @functools.wraps(program)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with Registration(self):
            return program.__get__(self, type(self))(*args, **kwargs)

    run.__pvae_registered__ = True  # type: ignore[attr-defined]
    return run


def forget_weak_references(module: nn.Module) -> None:
    """Remove what Pyro leaves on parameters (a weak reference that cannot be pickled); the next run renews it."""
    for parameter in module.parameters():
        parameter.__dict__.pop("unconstrained", None)


def _owners(latent_model: Any) -> Iterator[nn.Module]:
    """The modules that hold parameters: the latent model itself, or those whose methods or calls its programs are."""
    programs = [each for each in (getattr(latent_model, name, None) for name in ("model", "guide")) if each is not None]
    for each in (latent_model, *map(unwrap, programs)):
        owner = each if isinstance(each, nn.Module) else getattr(each, "__self__", None)
        if isinstance(owner, nn.Module):
            yield owner


def _held(latent_model: Any) -> set[int]:
    return {id(each) for owner in _owners(latent_model) for each in owner.parameters()}


def _outer_state() -> dict[str, Any]:
    """The ``pyro.param`` entries of the surrounding store, by reference; modules are found without it."""
    outer = pyro.get_param_store().get_state()
    kept = [name for name in outer["params"] if _MODULE_DIVIDER not in name]
    return {part: {name: outer[part][name] for name in kept} for part in ("params", "constraints")}


class _Restored(Messenger):
    """Gives saved values to ``pyro.param`` statements when they first run: only then is their constraint known."""

    def __init__(self, pending: dict[str, Tensor]) -> None:
        super().__init__()
        self.pending = pending

    def _pyro_post_param(self, msg: Any) -> None:
        saved = self.pending.pop(msg["name"], None)
        if saved is not None:
            store = pyro.get_param_store()
            with torch.no_grad():
                store._params[msg["name"]].copy_(saved)
            msg["value"] = store[msg["name"]]


@contextmanager
def scope(latent_model: Any, inherit: bool = False) -> Iterator[None]:
    """Run user programs in a parameter store of their own, which stays with `latent_model` between entries.

    Args:
        latent_model: the object with ``model`` and ``guide``.
        inherit: where this latent model has no store of its own yet, use the ``pyro.param`` entries of the surrounding
            store for the time inside (a plain `SVI` may have trained the functions); else begin empty.
    """
    held = latent_model.__dict__
    if held.get(_ENTERED_ATTRIBUTE):
        yield  # already inside: the store is this latent model's own
        return
    own = held.get(_STORE_ATTRIBUTE)
    borrowed = own is None and inherit
    state: Any = own if own is not None else _outer_state() if inherit else {"params": {}, "constraints": {}}
    store = pyro.get_param_store()
    with store.scope(state):
        held[_ENTERED_ATTRIBUTE] = True
        try:
            with _Restored(held.setdefault(_PENDING_ATTRIBUTE, {})):
                yield
        finally:
            held.pop(_ENTERED_ATTRIBUTE, None)
            state.update(store.get_state())
            # what is borrowed belongs to the surrounding store, and may be trained on there
            if not borrowed and state["params"]:
                held[_STORE_ATTRIBUTE] = state


def store_tensors(latent_model: Any) -> dict[str, Tensor]:
    """The unconstrained tensors of the current scope that no module of `latent_model` holds, by name in the store."""
    held = _held(latent_model)
    return {name: each for name, each in pyro.get_param_store().named_parameters() if id(each) not in held}


def restore_store(latent_model: Any, tensors: dict[str, Tensor]) -> None:
    """Set what `store_tensors` gave: entries that exist now, the others when their ``pyro.param`` first runs.

    Call it inside the latent model's `scope`, or before entering.
    """
    state = latent_model.__dict__.setdefault(_STORE_ATTRIBUTE, {"params": {}, "constraints": {}})
    inside = bool(latent_model.__dict__.get(_ENTERED_ATTRIBUTE))
    existing = dict(pyro.get_param_store().named_parameters()) if inside else state["params"]
    pending = latent_model.__dict__.setdefault(_PENDING_ATTRIBUTE, {})
    for name, tensor in tensors.items():
        if name in existing:
            with torch.no_grad():
                existing[name].copy_(tensor)
        else:
            pending[name] = tensor
