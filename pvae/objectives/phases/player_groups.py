"""Whose parameters a player of an objective updates."""

from __future__ import annotations

from typing import Any

from torch import nn

from pvae.errors import InputError
from pvae.programs.base import Program

__all__ = ["player_parameters"]


def player_parameters(objective: nn.Module, model: Any, guide: Any, player: str) -> list[nn.Parameter]:
    """Return the group of parameters that `player` updates: declared by the objective, else by the model's owner.

    Raises:
        InputError: if neither declares it.
    """
    owners = [each.owner if isinstance(each, Program) else getattr(each, "__self__", each) for each in (model, guide)]
    for owner in (objective, *owners):
        declared = getattr(owner, player, None)
        if callable(declared):
            return list(declared())
    raise InputError(
        f"{type(objective).__name__} updates the group {player!r} on its own: declare {player}() on the latent model."
    )
