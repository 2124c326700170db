"""Objectives that train theta and phi apart: their phases, and their groups in a plain SVI script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pyro
import torch
from pyro.infer.util import torch_item
from torch import Tensor, nn

from pvae.checks import require_positive, require_whole
from pvae.errors import InputError
from pvae.objectives.base import Call, Objective
from pvae.objectives.phases.player_groups import player_parameters
from pvae.programs.parameter_groups import Groups, program_groups
from pvae.programs.registration import Registration

__all__ = ["PlayersObjective", "Within"]


class Within(nn.Module):
    """A program that runs inside a context; what is remembered of its layout is the bare program's.

    Args:
        program: a Pyro program.
        enter: makes the context (a handler, `torch.no_grad`) for one run.
    """

    def __init__(self, program: Any, enter: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.program, self.enter = program, enter

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        with self.enter():
            return self.program(*args, **kwargs)


class PlayersObjective(Objective):
    """An objective whose step updates theta, then phi, each by a gradient of its own.

    `pvae.fit` updates each player as often as `updates` says, on the same batch with fresh draws. In a plain
    `pyro.infer.SVI` script one step is one update of both, from the same parameters.

    Args:
        particles: draws of z per datum.
        theta_steps: updates of theta per step.
        phi_steps: updates of phi per step.
        tolerance: ends a phase early where two of its losses in a row differ by less, nats per datum; None never does.
    """

    players: tuple[str, ...] = ("theta", "phi")

    def __init__(
        self, particles: int = 1, *, theta_steps: int = 1, phi_steps: int = 1, tolerance: float | None = None
    ) -> None:
        super().__init__(particles)
        self.updates = {
            "theta": require_whole(theta_steps, "theta_steps"),
            "phi": require_whole(phi_steps, "phi_steps"),
        }
        advice = "The unit is nats per datum; None never ends a phase early."
        self.tolerance = None if tolerance is None else require_positive(tolerance, "tolerance", advice=advice)
        self._found: dict[Any, dict[str, tuple[str, ...]]] = {}

    def phases(self) -> dict[str, Any]:
        """Return the settings of the phases that are not the defaults."""
        held = {f"{player}_steps": count for player, count in self.updates.items() if count != 1}
        return held | ({"tolerance": self.tolerance} if self.tolerance is not None else {})

    def settings(self) -> dict[str, Any]:
        """Return the number of particles and the phases."""
        return {**super().settings(), **self.phases()}

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the first player's loss, in nats, and add each player's gradient to ``.grad`` of its group."""
        losses = []
        with Registration(self):
            for player in self.acting():
                group = self.group(model, guide, args, kwargs, player)
                terms = self.terms(model, guide, args, kwargs, player)
                losses.append(torch_item(terms.loss))
                _accumulate(terms.surrogate, group)
        return losses[0]

    def acting(self) -> tuple[str, ...]:
        """Return who takes part in one step of a plain SVI script."""
        return self.players

    def group(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> list[Any]:
        """Return a player's parameters: as declared, else as they are found by differentiating both programs."""
        if player in self.unions:
            return [each for name in self.unions[player] for each in self.group(model, guide, args, kwargs, name)]
        try:
            return [each for each in player_parameters(self, model, guide, player) if each.requires_grad]
        except InputError:
            pass
        store = dict(pyro.get_param_store().named_parameters())
        key = (id(getattr(model, "__self__", model)), id(getattr(guide, "__self__", guide)), tuple(store))
        if key not in self._found:
            groups = program_groups(model, guide, args, kwargs)
            # a first run may have put parameters into the store
            store = dict(pyro.get_param_store().named_parameters())
            key = (*key[:2], tuple(store))
            self._found[key] = {name: tuple(getattr(groups, name)) for name in ("theta", "phi")}
            _require_apart(self, groups)
        return [store[name] for name in self._found[key][player]]


def _require_apart(objective: nn.Module, groups: Groups) -> None:
    if groups.both:
        raise InputError(
            f"Parameter {next(iter(groups.both))!r} belongs to the model and to the guide, and "
            f"{type(objective).__name__} trains them apart: declare theta() and phi() on the latent model."
        )


def _accumulate(surrogate: Tensor, group: list[Any]) -> None:
    if not surrogate.requires_grad or not group:
        return
    for parameter, gradient in _pairs(group, torch.autograd.grad(surrogate, group, allow_unused=True)):
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _pairs(group: list[Any], gradients: tuple[Tensor | None, ...]) -> Iterator[tuple[Any, Tensor]]:
    return ((each, found) for each, found in zip(group, gradients, strict=True) if found is not None)
