"""What is trained: every parameter by name, of the latent model, of Pyro's store, and of the objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.objectives.phases.player_groups import player_parameters
from pvae.programs.binding import Programs
from pvae.programs.parameter_groups import find_groups, named_parameters
from pvae.programs.parameter_scope import store_tensors

__all__ = ["Parameters", "all_finite", "is_average", "root_module"]

_AVERAGE = "__baseline_avg_downstream_cost_"


def is_average(name: str) -> bool:
    """Whether a name of the store is one of `TraceGraph_ELBO`'s running averages: state, never trained."""
    return name.startswith(_AVERAGE)


def root_module(latent_model: Any, programs: Programs) -> nn.Module:
    """Return the one module whose ``state_dict`` holds everything: the latent model where it is one itself."""
    if isinstance(latent_model, nn.Module):
        held = {id(each) for each in latent_model.modules()}
        if all(id(each) in held for each in programs.modules):
            return latent_model
    return programs.modules


class Parameters:
    """The trained tensors by name, and by player.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        programs: what `pvae.models.bind` made of it.
        objective: whose own parameters are trained too.
        batch: an example, by which theta and phi are found where an objective treats them apart.
    """

    def __init__(self, latent_model: Any, programs: Programs, objective: Any, batch: Mapping[str, Tensor]) -> None:
        self.latent_model, self.programs, self.objective = latent_model, programs, objective
        self.players: tuple[str, ...] = tuple(objective.players)
        self._batch = batch
        self.named: dict[str, Tensor] = {}
        self._by_player: dict[str, list[Tensor]] = {}
        self._fingerprint: tuple[Any, ...] = ()
        self.collect()

    def collect(self) -> bool:
        """Look again; return whether a parameter, a buffer or a training flag is another than before."""
        fingerprint = tuple(self._identities())
        if fingerprint == self._fingerprint:
            return False
        self._fingerprint = fingerprint
        found = named_parameters(self.latent_model, self.programs.modules)
        self.named = {name: each for name, each in found.items() if not is_average(name)}
        for name, each in self._own().items():
            self.named[f"objective.{name}"] = each
        if not self.named:
            raise InputError("There is nothing to train: the model and guide have no parameter with requires_grad.")
        self._by_player = {player: self._of(player) for player in self.players}
        self._seen = self._count()
        return True

    def of(self, player: str) -> list[Tensor]:
        """Return the parameters that a player's step updates, in the order of the names."""
        return self._by_player[player]

    def apart(self) -> dict[str, list[Tensor]]:
        """Return the parameters in the groups that may have learning rates of their own.

        Those that players update where an objective has several, and those that none does, else theta and phi; what
        is in none of them, such as the objective's own networks, is the group ``objective``.
        """
        names = self.players if self.players != ("all",) else ("theta", "phi")
        groups = {name: self._of(name) for name in (*self._apart(names), *self.objective.untrained)}
        held = {id(each) for group in groups.values() for each in group}
        rest = [each for each in self.named.values() if id(each) not in held]
        return groups | ({"objective": rest} if rest else {})

    def groups(self) -> dict[str, list[Tensor]]:
        """Return what is updated, in groups that share no parameter: the players, or what they are unions of."""
        return {name: self._of(name) for name in self._apart(self.players)}

    def _apart(self, players: tuple[str, ...]) -> list[str]:
        return list(dict.fromkeys(name for each in players for name in self.objective.unions.get(each, (each,))))

    def group_of(self, parameter: Tensor) -> str:
        """Return the name of a parameter's group in `apart`."""
        return next(name for name, group in self.apart().items() if any(each is parameter for each in group))

    def names(self, player: str) -> list[str]:
        """Return the names of a player's parameters."""
        names = {id(each): name for name, each in self.named.items()}
        return [names[id(each)] for each in self.of(player)]

    def appeared(self) -> bool:
        """Whether a program has put a new entry into the store since the last look, or the objective made one."""
        return self._count() != self._seen

    def _count(self) -> int:
        own = self.objective.parameters() if isinstance(self.objective, nn.Module) else ()
        return len(pyro.get_param_store()) + sum(1 for _ in own)

    def _identities(self) -> Iterator[Any]:
        for module in (*self.programs.modules, self.objective):
            for each in module.modules() if isinstance(module, nn.Module) else ():
                yield id(each), each.training
                yield from (id(tensor) for tensor in each._parameters.values())
                yield from (id(tensor) for tensor in each._buffers.values())
                yield from (tensor.requires_grad for tensor in each._parameters.values() if tensor is not None)
        yield from ((name, id(each)) for name, each in store_tensors(self.latent_model).items() if not is_average(name))

    def _own(self) -> dict[str, Tensor]:
        named = self.objective.named_parameters() if isinstance(self.objective, nn.Module) else ()
        return {name: each for name, each in named if each.requires_grad}

    def _of(self, player: str) -> list[Tensor]:
        """``all`` is everything; others as the objective or the model declares, or as theta and phi are found."""
        if player == "all":
            return list(self.named.values())
        if player in self.objective.unions:
            return [each for name in self.objective.unions[player] for each in self._of(name)]
        try:
            model, guide = self.programs.model.program, self.programs.guide.program
            declared = player_parameters(self.objective, model, guide, player)
            return [each for each in declared if each.requires_grad]
        except InputError:
            if player not in ("theta", "phi"):
                raise
        groups = find_groups(self.latent_model, [self._batch])
        if groups.both:
            raise InputError(
                f"Parameter {next(iter(groups.both))!r} belongs to the model and to the guide, and this objective "
                "trains them apart: declare theta() and phi() on the latent model."
            )
        return list(getattr(groups, player).values())


def all_finite(tensors: list[Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity; one number is read from the device."""
    floating = [each.detach() for each in tensors if each.is_floating_point() and each.numel()]
    if not floating:
        return True
    return bool(torch.stack([torch.isfinite(each).all() for each in floating]).all())
