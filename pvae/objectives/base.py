"""What an inference algorithm optimises: a Pyro loss that is also a module."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Unpack

import pyro
import torch
from pyro.infer import ELBO
from pyro.infer.enum import get_importance_trace
from pyro.infer.util import torch_item
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.objectives.gradients.estimator import estimate
from pvae.objectives.gradients.strategies import (
    BIASED,
    WeightsOptions,
    chooser,
    gradients_of,
    require_matches,
    require_pathwise,
    text_of,
)
from pvae.objectives.phases.player_groups import player_parameters
from pvae.programs.base import Program
from pvae.programs.registration import Registration, forget_weak_references
from pvae.randomness import evaluating
from pvae.weights import LogWeights, trace_weights
from pvae.weights.auxiliary import Marginal
from pvae.weights.handlers import Choose

__all__ = ["Objective", "ObjectiveModule", "Terms", "WeightsObjective", "WeightsOptions"]

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

    def __init__(self, particles: int = 1) -> None:
        nn.Module.__init__(self)
        if not isinstance(particles, int) or isinstance(particles, bool) or particles < 1:
            raise InputError(f"particles must be a whole number of at least 1; got {particles!r}.")
        ELBO.__init__(self, num_particles=particles, vectorize_particles=True)

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


class WeightsObjective(Objective):
    """An objective made of log weights: one method, from the weights to a bound per datum.

    Args:
        particles: draws of z per datum.
        options: see `WeightsOptions`.
    """

    #: whether the surrogate is right only for guides whose sites all have a pathwise gradient
    pathwise = True

    #: whether the surrogate is a mean over particles, each of which adds a number of its own
    averages = False

    #: for a mean over particles, the factor of -log q in the number of each
    entropy: float | Tensor = 1.0

    #: how the other particles' weights stand in for one particle's, in a leave-one-out baseline
    mean = "geometric"

    #: the strategy of sites that cannot be reparameterised; None for the score, leave-one-out where possible
    scored: str | None = None

    def __init__(self, particles: int = 1, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles)
        self.data_plate = options.get("data_plate")
        self.gradients = gradients_of(options.get("gradients"))
        self.auxiliary = options.get("auxiliary")
        if self.auxiliary is not None and not isinstance(self.auxiliary, Marginal):
            raise InputError(f"auxiliary needs a pvae.Marginal(reverse=...); got {self.auxiliary!r}.")
        self.biased = self._bias()

    def _bias(self) -> str:
        """Why the gradient is biased, or nothing: relaxations are."""
        relaxed = {site: each for site, each in self.gradients.items() if each in BIASED}
        return f"relaxed draws: {text_of(relaxed)}" if relaxed else type(self).biased

    def settings(self) -> dict[str, Any]:
        """Return the number of particles, and the gradients chosen by site."""
        chosen = text_of(self.gradients)
        return {**super().settings(), **({"gradients": chosen} if chosen else {})}

    @abstractmethod
    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return what is maximised, per datum, shape (batch,), in nats; its gradient is the estimator."""

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the value that is reported, per datum, shape (batch,), in nats: by default the surrogate's own."""
        return self.surrogate(weights).detach()

    def baseline(self, signals: Tensor, weights: LogWeights) -> Tensor:
        """Return what is taken off each particle's number for sites with the strategy ``score``: by default nothing.

        Only objectives that average over particles are asked.

        Args:
            signals: the number of each particle, shape (particles, batch), nats.
            weights: of the batch.

        Returns:
            Shape (particles, batch); it must not depend on a particle's own draw.
        """
        return torch.zeros_like(signals)

    def control(self, signals: Tensor, weights: LogWeights) -> Tensor | None:
        """Return a further term per datum whose gradient has mean zero, shape (batch,), or None."""
        return None

    def choose(self) -> Choose:
        """Return the function that gives each site of a run its strategy."""
        return chooser(self.gradients, self.num_particles, "pathwise" if self.pathwise else self.scored)

    def weights(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> LogWeights:
        """Return the log weights of a batch, with the strategy of each site.

        Raises:
            InputError: if a site cannot have its strategy, or a name in ``gradients`` matches none.
        """
        weights = trace_weights(
            model,
            guide,
            args,
            kwargs,
            self.num_particles,
            data_plate=self.data_plate,
            choose=self.choose(),
            auxiliary=self.auxiliary,
        )
        require_matches(self.gradients, weights.strategies)
        if self.pathwise:
            require_pathwise(type(self).__name__, weights)
        return weights

    def reported(self, weights: LogWeights, surrogate: Tensor) -> Tensor:
        """Return `bound` of weights whose surrogate is known, shape (batch,)."""
        return surrogate.detach() if type(self).bound is WeightsObjective.bound else self.bound(weights)

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch: minus the sum of the bounds per datum, each times its scale."""
        relaxed = "concrete" in self.gradients.values()  # its draws lie outside the support
        with pyro.validation_enabled(False) if relaxed else nullcontext():
            weights = self.weights(model, guide, args, kwargs)
            value, surrogate = estimate(self, weights)
        named = {name: (each * weights.scale).sum().detach() for name, each in weights.named().items()}
        return Terms(-(value * weights.scale).sum(), -(surrogate * weights.scale).sum(), named)
