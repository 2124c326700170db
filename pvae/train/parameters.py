"""`Parameters`: the trained tensors of a latent model, of Pyro's store and of an objective, by name and by player."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.objectives.base import Objective
from pvae.objectives.phases.player_groups import player_parameters
from pvae.programs.binding import Programs
from pvae.programs.parameter_groups import find_groups, named_parameters, require_disjoint_groups
from pvae.programs.parameter_scope import store_tensors
from pvae.train.gradient_hooks import gradient_hooks, hooks_of

__all__ = ["Parameters", "all_finite", "is_average", "root_module"]

# Pyro's `TraceGraph_ELBO` gives its running averages names with this prefix.
_AVERAGE_PREFIX = "__baseline_avg_downstream_cost_"


def is_average(name: str) -> bool:
    """Return whether a name of the store is a running average of `TraceGraph_ELBO`. It is state and is not trained."""
    return name.startswith(_AVERAGE_PREFIX)


def root_module(latent_model: Any, programs: Programs) -> nn.Module:
    """Return the module that holds all parameters in its ``state_dict``.

    It is the latent model itself if this is a module that contains all modules of the programs.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        programs: both programs of the latent model.
    """
    if isinstance(latent_model, nn.Module):
        inside = {id(module) for module in latent_model.modules()}
        if all(id(module) in inside for module in programs.modules):
            return latent_model
    return programs.modules


class Parameters:
    """The trained tensors by name, and by player.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        programs: both programs of the latent model, from `pvae.models.bind`.
        objective: the objective; its own parameters are trained too.
        batch: a batch, from which theta and phi are found if the objective trains them separately.

    Attributes:
        players: the players of the objective.
        named: the trained tensors by name.
    """

    def __init__(
        self, latent_model: Any, programs: Programs, objective: Objective, batch: Mapping[str, Tensor]
    ) -> None:
        self.latent_model, self.programs, self.objective = latent_model, programs, objective
        self.players: tuple[str, ...] = tuple(objective.players)
        self.named: dict[str, Tensor] = {}
        self._batch = batch
        self._by_player: dict[str, list[Tensor]] = {}
        self._fingerprint: tuple[Any, ...] = ()
        self.collect()

    def collect(self) -> bool:
        """Find the trained tensors again.

        Returns:
            Whether a parameter, a buffer or a training flag has been replaced since the last call.

        Raises:
            InputError: if there is nothing to train, or if a player's parameters are unknown.
        """
        fingerprint = tuple(self._identities())
        if fingerprint == self._fingerprint:
            return False
        self._fingerprint = fingerprint
        of_programs = named_parameters(self.latent_model, self.programs.modules)
        self.named = {name: tensor for name, tensor in of_programs.items() if not is_average(name)}
        for name, parameter in self._of_objective().items():
            self.named[f"objective.{name}"] = parameter
        if not self.named:
            raise InputError(
                "Training needs parameters with requires_grad; the model and the guide have none. Hold parameters in "
                "modules, or use pyro.param."
            )
        self._by_player = {player: self._find(player) for player in self.players}
        self._count_at_collection = self._count()
        return True

    @property
    def modules(self) -> list[nn.Module]:
        """The modules of the programs, those that the programs use besides, and the objective."""
        return [*self.programs.all_modules, self.objective]

    def with_frozen(self) -> dict[str, Tensor]:
        """Return the trained tensors and the parameters that need no gradient now, by name, unchanged in shape."""
        owners = [("", module) for module in self.programs.modules] + [("objective.", self.objective)]
        named = {name: tensor for name, tensor in store_tensors(self.latent_model).items() if not is_average(name)}
        for prefix, owner in owners:
            named |= {prefix + name: parameter for name, parameter in owner.named_parameters()}
        return {name: tensor for name, tensor in named.items() if not tensor.requires_grad} | self.named

    def of(self, player: str) -> list[Tensor]:
        """Return the parameters that a player's step updates, unchanged in shape, in the order of the names."""
        return self._by_player[player]

    def groups_with_rates(self) -> dict[str, list[Tensor]]:
        """Return the parameters in the groups that may have learning rates of their own.

        If the objective has several players, the groups are the players and the groups in `Objective.untrained`.
        Otherwise they are theta and phi. Parameters of no such group, for instance the objective's own networks, are
        the group ``objective``.
        """
        names = self.players if self.players != ("all",) else ("theta", "phi")
        groups = {name: self._find(name) for name in (*self._without_unions(names), *self.objective.untrained)}
        in_groups = {id(parameter) for group in groups.values() for parameter in group}
        rest = [parameter for parameter in self.named.values() if id(parameter) not in in_groups]
        return groups | ({"objective": rest} if rest else {})

    def groups(self) -> dict[str, list[Tensor]]:
        """Return the parameters in disjoint groups: the players, or the parts of a player that is a union."""
        return {name: self._find(name) for name in self._without_unions(self.players)}

    def _without_unions(self, players: tuple[str, ...]) -> list[str]:
        """Return the names of the players, with each union of groups replaced by its groups, without repetition."""
        unions = self.objective.unions
        return list(dict.fromkeys(name for player in players for name in unions.get(player, (player,))))

    def group_of(self, parameter: Tensor) -> str:
        """Return the name of the group of `groups_with_rates` that a parameter belongs to."""
        groups = self.groups_with_rates()
        return next(name for name, group in groups.items() if any(member is parameter for member in group))

    def names(self, player: str) -> list[str]:
        """Return the names of a player's parameters."""
        names = {id(parameter): name for name, parameter in self.named.items()}
        return [names[id(parameter)] for parameter in self.of(player)]

    def has_new(self) -> bool:
        """Return whether a program has created an entry of the store, or the objective a parameter, since `collect`."""
        return self._count() != self._count_at_collection

    def _count(self) -> int:
        """Return the number of entries of the store and of the objective's parameters."""
        return len(pyro.get_param_store()) + len(list(self.objective.parameters()))

    def _identities(self) -> Iterator[Any]:
        """Yield values that change if a parameter, a buffer, a training flag or ``requires_grad`` changes."""
        for owner in self.modules:
            for module in owner.modules():
                yield id(module), module.training
                yield from (id(tensor) for tensor in module._parameters.values())
                yield from _hooks(module)
                yield from (id(tensor) for tensor in module._buffers.values())
                yield from (tensor.requires_grad for tensor in module._parameters.values() if tensor is not None)
        entries = store_tensors(self.latent_model).items()
        yield from ((name, id(tensor)) for name, tensor in entries if not is_average(name))

    def _of_objective(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.objective.named_parameters() if value.requires_grad}

    def _find(self, player: str) -> list[Tensor]:
        """Return the parameters of a player: ``all``, a union, a declared group, or theta or phi by derivatives."""
        if player == "all":
            return list(self.named.values())
        if player in self.objective.unions:
            return [parameter for name in self.objective.unions[player] for parameter in self._find(name)]
        try:
            model, guide = self.programs.model.program, self.programs.guide.program
            declared = player_parameters(self.objective, model, guide, player)
            return [parameter for parameter in declared if parameter.requires_grad]
        except InputError:
            if player not in ("theta", "phi"):
                raise
        groups = find_groups(self.latent_model, [self._batch])
        require_disjoint_groups(groups, type(self.objective).__name__)
        return list({"theta": groups.theta, "phi": groups.phi}[player].values())


def _hooks(module: nn.Module) -> Iterator[int]:
    """Yield the ``id`` of each function that torch calls when a module runs, or with the gradient of a parameter."""
    of_module = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    for hooks in of_module:
        yield from map(id, hooks.values())
    for parameter in module._parameters.values():
        if parameter is not None:
            yield from map(id, hooks_of(parameter, "_backward_hooks"))
            yield from map(id, gradient_hooks(parameter))


def all_finite(tensors: list[Tensor]) -> bool:
    """Return whether no tensor holds NaN or infinity; one number is read from the device."""
    inexact = [tensor.detach() for tensor in tensors if tensor.is_floating_point() or tensor.is_complex()]
    finite = [torch.isfinite(tensor).all() for tensor in inexact if tensor.numel()]
    return not finite or bool(torch.stack(finite).all())
