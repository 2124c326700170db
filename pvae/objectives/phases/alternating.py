"""`PlayersObjective`: objectives that update theta and phi separately, in `pvae.fit` and in a plain SVI script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.infer.util import torch_item

from pvae.checks import require_positive, require_whole
from pvae.errors import InputError
from pvae.objectives.base import Objective, add_gradients
from pvae.objectives.phases.player_groups import GroupsInStore, player_parameters
from pvae.programs.registration import Registration

__all__ = ["PlayersObjective"]


class PlayersObjective(Objective):
    """An objective that updates several parameter groups separately: by default theta, then phi.

    A player is a parameter group that is updated on its own. `pvae.fit` updates each player the number of times in
    `updates`, on the same batch with new draws. In a plain `pyro.infer.SVI` script one step is one update of every
    player, from the same parameters.

    Args:
        particles: draws of z per datum.
        theta_steps: the number of updates of theta per step.
        phi_steps: the number of updates of phi per step.
        tolerance: the difference of two losses in a row, in nats per datum, below which the updates of one player end
            early; None never ends them early.

    Raises:
        InputError: if a number is out of its range.
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
        advice = "The unit is nats per datum; None never ends the updates of a player early."
        self.tolerance = None if tolerance is None else require_positive(tolerance, "tolerance", advice=advice)
        self._groups_in_store = GroupsInStore(type(self).__name__)

    def phases(self) -> dict[str, Any]:
        """Return the settings of the updates that are not the defaults."""
        steps = {f"{player}_steps": count for player, count in self.updates.items() if count != 1}
        return steps | ({"tolerance": self.tolerance} if self.tolerance is not None else {})

    def settings(self) -> dict[str, Any]:
        """Return the number of particles and the settings of the updates."""
        return {**super().settings(), **self.phases()}

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the first player's loss, in nats, and add each player's gradient to ``.grad`` of its own parameters.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        losses = []
        with Registration(self):
            for player in self.acting():
                group = self.group(model, guide, args, kwargs, player)
                terms = self.terms(model, guide, args, kwargs, player)
                losses.append(torch_item(terms.loss))
                add_gradients(terms.surrogate, group)
        return losses[0]

    def acting(self) -> tuple[str, ...]:
        """Return the players that one step of a plain SVI script updates."""
        return self.players

    def group(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> list[Any]:
        """Return the trainable parameters of a player.

        They are the declared ones. For theta and phi without a declaration, both programs are differentiated.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
            player: one of `players`, or a group of `unions`.

        Raises:
            InputError: if theta and phi are not declared and share a parameter.
        """
        if player in self.unions:
            return [
                parameter
                for group in self.unions[player]
                for parameter in self.group(model, guide, args, kwargs, group)
            ]
        try:
            declared = player_parameters(self, model, guide, player)
        except InputError:
            return self._groups_in_store.group(model, guide, args, kwargs, player)
        return [parameter for parameter in declared if parameter.requires_grad]
