"""The parameters that a player of an objective updates, declared by the objective or the latent model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
from torch import nn

from pvae.errors import InputError
from pvae.programs.base import Program
from pvae.programs.parameter_groups import declared_group, program_groups, require_disjoint_groups

__all__ = ["GroupsInStore", "player_parameters"]


def player_parameters(objective: nn.Module, model: Any, guide: Any, player: str) -> list[nn.Parameter]:
    """Return the parameter group that `player` updates, declared by the objective or the owner of a program.

    Args:
        objective: an objective, which may have a method with the player's name, such as ``critic()``.
        model: p(x, z), a program or a bound method of a latent model.
        guide: q(z given x), likewise.
        player: the name of the group, such as ``"theta"``.

    Raises:
        InputError: if none of them declares the group.
    """
    owners = [_owner(program) for program in (model, guide)]
    parameters = declared_group((objective, *owners), player)
    if parameters is None:
        raise InputError(
            f"{type(objective).__name__} updates the parameter group {player!r} separately, but the latent model does "
            f"not declare it. Write a method {player}() on the latent model that returns these parameters."
        )
    return parameters


def _owner(program: Any) -> Any:
    """Return the object that holds a program: the module, or the function itself."""
    return program.owner if isinstance(program, Program) else getattr(program, "__self__", program)


class GroupsInStore:
    """The parameters of theta and phi in Pyro's store, for programs that declare no groups.

    Args:
        objective: the name of the objective, for errors.
    """

    def __init__(self, objective: str) -> None:
        self._objective = objective
        # The names of the parameters of each group, by programs and names in the store.
        self._names: dict[Any, dict[str, tuple[str, ...]]] = {}

    def group(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> list[Any]:
        """Return the trainable parameters of theta or phi, found by differentiating both programs once.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
            player: ``"theta"`` or ``"phi"``.

        Raises:
            InputError: if theta and phi share a parameter.
        """
        store = dict(pyro.get_param_store().named_parameters())
        owners = (id(getattr(model, "__self__", model)), id(getattr(guide, "__self__", guide)))
        key = (owners, tuple(store))
        if key not in self._names:
            groups = program_groups(model, guide, args, kwargs)
            # A first run may have added parameters to the store.
            store = dict(pyro.get_param_store().named_parameters())
            key = (owners, tuple(store))
            self._names[key] = {"theta": tuple(groups.theta), "phi": tuple(groups.phi)}
            require_disjoint_groups(groups, self._objective)
        return [store[name] for name in self._names[key][player]]
