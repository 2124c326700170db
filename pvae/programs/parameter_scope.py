"""The scope of a latent model: a separate parameter store for ``pyro.param``, kept with the model between runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger, unwrap
from torch import Tensor, nn

from pvae.programs.registration import MODULE_DIVIDER, registered_names

__all__ = ["names_of_modules", "restore_store", "scope", "store_tensors"]

_STORE_ATTRIBUTE = "_pvae_store"
_PENDING_ATTRIBUTE = "_pvae_pending"
_ENTERED_ATTRIBUTE = "_pvae_entered"


def _owners(latent_model: Any) -> Iterator[nn.Module]:
    """Yield the modules that hold parameters: the latent model, and the modules that its programs belong to."""
    programs = [getattr(latent_model, name, None) for name in ("model", "guide")]
    for candidate in (latent_model, *[unwrap(program) for program in programs if program is not None]):
        owner = candidate if isinstance(candidate, nn.Module) else getattr(candidate, "__self__", None)
        if isinstance(owner, nn.Module):
            yield owner


def _module_parameter_ids(latent_model: Any) -> set[int]:
    return {id(parameter) for owner in _owners(latent_model) for parameter in owner.parameters()}


def _outer_state() -> dict[str, Any]:
    """Return the ``pyro.param`` entries of the surrounding store, by reference, without parameters of modules."""
    outer = pyro.get_param_store().get_state()
    kept = [name for name in outer["params"] if MODULE_DIVIDER not in name]
    return {part: {name: outer[part][name] for name in kept} for part in ("params", "constraints")}


class _RestoreParameters(Messenger):
    """A handler that gives ``pyro.param`` statements their saved values when they first run.

    Their constraint is known only then. The handler does nothing if no value is pending.
    """

    def __init__(self, pending: dict[str, Tensor]) -> None:
        super().__init__()
        self.pending = pending
        self._pyro_post_param: Callable[[Any], None] | None = None
        self.update()

    def update(self) -> None:
        """Start or stop handling ``pyro.param`` statements."""
        self._pyro_post_param = self._restore if self.pending else None

    def _restore(self, msg: Any) -> None:
        saved = self.pending.pop(msg["name"], None)
        if saved is not None:
            store = pyro.get_param_store()
            with torch.no_grad():
                dict(store.named_parameters())[msg["name"]].copy_(saved)
            msg["value"] = store[msg["name"]]
            self.update()


@contextmanager
def scope(latent_model: Any, inherit: bool = False) -> Iterator[None]:
    """Run user programs in a separate parameter store, which is kept with `latent_model` between entries.

    Args:
        latent_model: the object with ``model`` and ``guide``.
        inherit: if this latent model has no store yet, use the ``pyro.param`` entries of the surrounding store
            inside the block (a plain `SVI` may have trained the functions). Otherwise start empty.
    """
    attributes = latent_model.__dict__
    if attributes.get(_ENTERED_ATTRIBUTE):
        yield  # the current store belongs to this latent model already
        return
    kept_state = attributes.get(_STORE_ATTRIBUTE)
    borrowed = kept_state is None and inherit
    state: Any = kept_state
    if state is None:
        state = _outer_state() if inherit else {"params": {}, "constraints": {}}
    store = pyro.get_param_store()
    with store.scope(state):
        restore = _RestoreParameters(attributes.setdefault(_PENDING_ATTRIBUTE, {}))
        attributes[_ENTERED_ATTRIBUTE] = restore
        try:
            with restore:
                yield
        finally:
            attributes.pop(_ENTERED_ATTRIBUTE, None)
            state.update(store.get_state())
            # Entries from the surrounding store belong to it; training may continue there.
            if not borrowed and state["params"]:
                attributes[_STORE_ATTRIBUTE] = state


def names_of_modules(latent_model: Any) -> set[str]:
    """Return the names that the store has for parameters of the modules that `latent_model` holds.

    Args:
        latent_model: the object with ``model`` and ``guide``.
    """
    return {name for owner in _owners(latent_model) for name in registered_names(owner)}


def store_tensors(latent_model: Any) -> dict[str, Tensor]:
    """Return the unconstrained tensors of the current scope that no module of `latent_model` holds, by name.

    They are the tensors of the parameter store, not copies, in their own shapes.
    """
    in_modules = _module_parameter_ids(latent_model)
    # the store holds a parameter that a callback has replaced until the next run of a program
    of_modules = names_of_modules(latent_model)
    entries = pyro.get_param_store().named_parameters()
    return {name: tensor for name, tensor in entries if id(tensor) not in in_modules and name not in of_modules}


def restore_store(latent_model: Any, tensors: dict[str, Tensor]) -> None:
    """Set the tensors of a result of `store_tensors`.

    Entries that exist are set now, other entries when their ``pyro.param`` first runs. Call it inside the latent
    model's `scope`, or before the scope is entered.

    Args:
        latent_model: the object with ``model`` and ``guide``.
        tensors: unconstrained tensors by name.
    """
    state = latent_model.__dict__.setdefault(_STORE_ATTRIBUTE, {"params": {}, "constraints": {}})
    restore = latent_model.__dict__.get(_ENTERED_ATTRIBUTE)
    existing = dict(pyro.get_param_store().named_parameters()) if restore is not None else state["params"]
    pending = latent_model.__dict__.setdefault(_PENDING_ATTRIBUTE, {})
    for name, tensor in tensors.items():
        if name in existing:
            with torch.no_grad():
                existing[name].copy_(tensor)
        else:
            pending[name] = tensor
    if restore is not None:
        restore.update()
