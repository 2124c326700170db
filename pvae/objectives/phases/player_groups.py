"""The parameters that a player of an objective updates, as the objective or the latent model declares them."""

from __future__ import annotations

from typing import Any

from torch import nn

from pvae.errors import InputError
from pvae.programs.base import Program
from pvae.programs.parameter_groups import declared_group

__all__ = ["player_parameters"]


def player_parameters(objective: nn.Module, model: Any, guide: Any, player: str) -> list[nn.Parameter]:
    """Return the parameter group that `player` updates, as the objective or the owner of a program declares it.

    Args:
        objective: an objective with a method of the player's name, such as ``critic()``, or without.
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
            f"{type(objective).__name__} updates the parameter group {player!r} on its own, and the latent model does "
            f"not declare it. Write a method {player}() on the latent model that returns these parameters."
        )
    return parameters


def _owner(program: Any) -> Any:
    """Return the object that holds a program: the module, or the function itself."""
    return program.owner if isinstance(program, Program) else getattr(program, "__self__", program)
