"""What an inference algorithm optimises: a Pyro loss that is also a module."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.infer.enum import get_importance_trace
from pyro.infer.util import torch_item
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.objectives.phases.player_groups import player_parameters
from pvae.programs.base import Program
from pvae.programs.registration import Registration, forget_weak_references
from pvae.randomness import evaluating

__all__ = ["Objective", "ObjectiveModule", "Terms"]

Call = tuple[Any, ...]


@dataclass(frozen=True)
class Terms:
    """The numbers of one step, summed over the batch as Pyro's losses are, in nats.

    Attributes:
        loss: what is minimised, without gradient; under a plate of scale N/B it stands for N data.
        surrogate: a scalar whose gradient is the estimate of the gradient of the expected loss.
        named: other numbers worth recording, in the loss's unit, without gradient.
    """

    loss: Tensor
    surrogate: Tensor
    named: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(ELBO, nn.Module):
    """An inference algorithm as a loss: for `pvae.fit`, for plain `pyro.infer.SVI`, and as a module.

    Subclasses give one method, `terms`. Baselines, critics and multipliers are the objective's own parameters and
    buffers. State advances only in training: `loss` runs in evaluation mode.

    Attributes:
        players: whose parameters one step updates in turn: ``("all",)``, or groups or `unions`: ``("theta", "phi")``.
    """

    players: tuple[str, ...] = ("all",)

    #: why the mean of the gradient is not the gradient of `target`, in a few words; empty where it is
    biased: str = ""

    #: why the loss is not minus a bound on log p(x), in a few words; empty where it is
    no_bound: str = ""

    #: why no bound on held-out data ranks the parameters that it trains, in a few words; empty where one does
    unranked: str = ""

    #: players that update several groups together, such as {"generator": ("theta", "phi")}
    unions: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    #: groups of the latent model that no player updates
    untrained: tuple[str, ...] = ()

    #: how often a step updates a player, where not once; and when a phase ends early: see `PlayersObjective`
    updates: Mapping[str, int] = MappingProxyType({})
    tolerance: float | None = None

    #: whether the objective enumerates marked sites itself, in a way that the linter need not report
    enumerates: bool = False

    #: whether minus the loss on validation data ranks epochs, instead of the importance-weighted bound
    ranks_by_loss: bool = False

    #: the least part of each batch that `pvae.fit` takes from the labelled data; 0 takes the data as they come
    labelled: float = 0.0

    #: the name of the plate over data, where several plates hold every site
    data_plate: str | None = None

    @property
    def bound_objective(self) -> Objective:
        """The objective whose bound is maximised: this one, or the one that an alternating objective contains."""
        return self

    def look_at(self, data: Mapping[str, Tensor]) -> None:
        """Read what the objective needs of the training data; `pvae.fit` calls this once, before training."""

    def diagnose(self) -> None:
        """Warn about the state of the training; `pvae.fit` calls this after each epoch."""

    def __init__(self, particles: int = 1) -> None:
        nn.Module.__init__(self)
        ELBO.__init__(self, num_particles=require_whole(particles, "particles"), vectorize_particles=True)

    def __getstate__(self) -> dict[str, Any]:
        forget_weak_references(self)
        return dict(self.__dict__)

    @property
    def particles(self) -> int:
        """The number of draws of z per datum."""
        return self.num_particles

    @abstractmethod
    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss and its surrogate for one batch, as tensors: nothing is read from the device.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: positional arguments of both programs.
            kwargs: keyword arguments of both programs.
            player: one of `players`.
        """

    def target(self) -> Objective:
        """Return the objective whose expected loss and gradient this one estimates: by default itself."""
        return self

    def settings(self) -> dict[str, Any]:
        """Return what identifies this objective beside its class; shown in tables and recorded with a run."""
        return {"particles": self.num_particles}

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss of a batch, in nats, without gradients or a change of state."""
        with evaluating(self), torch.no_grad():
            return torch_item(self.terms(model, guide, args, kwargs, self.players[0]).loss)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss of a batch, in nats, and add its gradients to ``.grad``: what `pyro.infer.SVI` calls."""
        with Registration(self):
            total = 0.0
            for player in self.players:
                terms = self.terms(model, guide, args, kwargs, player)
                self._backward(terms.surrogate, model, guide, player)
                total += torch_item(terms.loss)
        return total

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch as a scalar, in nats, whose gradient is the surrogate's."""
        total: Tensor | float = 0.0
        for player in self.players:
            terms = self.terms(model, guide, args, kwargs, player)
            total = total + terms.surrogate + (terms.loss - terms.surrogate).detach()
        return torch.as_tensor(total)

    def __call__(self, model: Any, guide: Any) -> ObjectiveModule:  # type: ignore[override]
        """Return a module over both programs: its parameters are complete, and calling it gives the loss."""
        return ObjectiveModule(model, guide, self)

    def _backward(self, surrogate: Tensor, model: Any, guide: Any, player: str) -> None:
        if not surrogate.requires_grad:
            return
        if player == "all":
            surrogate.backward()
            return
        group = player_parameters(self, model, guide, player)
        gradients = torch.autograd.grad(surrogate, group, allow_unused=True)
        for parameter, gradient in zip(group, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def _get_trace(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> Any:
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)


class ObjectiveModule(nn.Module):
    """A model, a guide and an objective as one module; ``forward`` gives the loss of a batch, in nats.

    Args:
        model, guide: Pyro programs; a bound method stays with its owner.
        objective: the loss.
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any], objective: Objective) -> None:
        super().__init__()
        self.model = model if isinstance(model, Program) else Program(model)
        self.guide = guide if isinstance(guide, Program) else Program(guide)
        self.objective = objective

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the differentiable loss of a batch, a scalar in nats."""
        return self.objective.differentiable_loss(self.model, self.guide, *args, **kwargs)
