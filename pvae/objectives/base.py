"""`Objective`, the base class of all objectives: a Pyro loss that is also a module."""

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
from pvae.memory_layout import in_layout_of
from pvae.objectives.phases.player_groups import player_parameters
from pvae.programs.base import Program
from pvae.programs.registration import Registration, forget_weak_references
from pvae.randomness import evaluating

__all__ = ["Objective", "ObjectiveModule", "Terms", "add_gradients", "scaled_sums"]


@dataclass(frozen=True)
class Terms:
    """The numbers of one step, in nats, summed over the batch as Pyro's losses are.

    Attributes:
        loss: the number that is minimised, without gradient. Under a plate of scale N/B it represents N data.
        surrogate: a scalar with a gradient that estimates the gradient of the expected loss.
        named: other numbers to be recorded, in the unit of the loss, without gradient.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> terms = pvae.IWAE(particles=5).terms(model.model, model.guide, (x,), {}, "all")
        >>> terms.loss.requires_grad, terms.surrogate.requires_grad
        (False, True)
    """

    loss: Tensor
    surrogate: Tensor
    named: Mapping[str, Tensor] = field(default_factory=dict)


def scaled_sums(by_name: Mapping[str, Tensor], scale: float | Tensor) -> dict[str, Tensor]:
    """Return for each name the sum over data, each times its scale, without gradient.

    Args:
        by_name: numbers per datum, each of shape (batch,).
        scale: the factor of each datum: a number, or shape (batch,).
    """
    return {name: (values * scale).sum().detach() for name, values in by_name.items()}


class Objective(ELBO, nn.Module):
    """An inference algorithm as a loss, for `pvae.fit`, for plain `pyro.infer.SVI`, and as a module.

    A subclass implements one method, `terms`. Baseline networks, critics and multipliers are the objective's own
    parameters and buffers. Its state advances only in training mode: `loss` runs in evaluation mode.

    An objective declares its properties by the attributes below, on its class or on the instance. Trainer, validation
    and linter read them. The first six describe what a step updates, the next four what validation may do, and the next
    two what the linter and the gradient study report.

    A player is a parameter group that is updated on its own: all parameters ("all"), the model's ("theta"), the guide's
    ("phi"), the objective's own ("critic"), or several of these groups together (see `unions`).

    Attributes:
        players: the parameter groups that one step updates, in this order. The default is ``("all",)``, one update of
            all parameters.
        unions: for each player that is made of several groups, the names of these groups:
            ``{"generator": ("theta", "phi")}``. The default is none.
        untrained: the groups of the latent model that no step updates. The default is none.
        updates: the number of updates of each player in one step. A player that is not listed, by default every player,
            is updated once.
        tolerance: the difference of two losses in a row, in nats per datum, below which the updates of one player end
            early. The default None never ends them early.
        labelled: the least share of each batch that `pvae.fit` fills with labelled data. The default 0 takes all data
            at random.
        no_bound: the reason why the loss is not minus a bound on log p(x), in a few words. The default "" means that
            the loss is a bound; otherwise validation uses the objective's own loss.
        no_density: the reason why the trained p(x given z) is not a density of x, in a few words; evaluations of the
            evidence, draws of x with noise and imputations are then refused. The default "" means that it is a density.
        unranked: the reason why no validation score ranks the parameters, in a few words; the last parameters are then
            kept. The default "" means that validation ranks them.
        ranks_by_loss: whether validation ranks epochs by minus the loss on validation data. The default False ranks
            them by the importance-weighted bound.
        biased: the reason why the mean of the gradient is not the gradient of `target`, in a few words. The default ""
            means that the gradient is unbiased.
        enumerates: whether the objective sums over sites that are marked for enumeration, so that the linter does not
            report them. The default is False.
        data_plate: the name of the plate over data, if several plates hold every site. The default None finds it.

    Example:
        >>> import pvae, torch
        >>> class Elbo(pvae.Objective):
        ...     def terms(self, model, guide, args, kwargs, player="all"):
        ...         loss = pvae.StickingTheLanding().differentiable_loss(model, guide, *args, **kwargs)
        ...         return pvae.Terms(loss=loss.detach(), surrogate=loss)
        >>> x = torch.eye(4).repeat(10, 1)
        >>> run = pvae.fit("vae:latent=2:hidden=8", x, objective=Elbo(), epochs=1, step="eager", progress=False)
        >>> run.history[-1]["loss"] > 0  # minus the ELBO, in nats per datum
        True
    """

    # What a step updates.
    players: tuple[str, ...] = ("all",)
    unions: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    untrained: tuple[str, ...] = ()
    updates: Mapping[str, int] = MappingProxyType({})
    tolerance: float | None = None
    labelled: float = 0.0

    # What validation may do.
    no_bound: str = ""
    no_density: str = ""
    unranked: str = ""
    ranks_by_loss: bool = False

    # What the linter and the gradient study report.
    biased: str = ""
    enumerates: bool = False

    # How the programs are read.
    data_plate: str | None = None

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

    @property
    def bound_objective(self) -> Objective:
        """The objective with the bound that is maximised: this one, or the one that an alternating objective holds."""
        return self

    def look_at(self, data: Mapping[str, Tensor]) -> None:
        """Read what the objective needs from the training data; `pvae.fit` calls this once, before training.

        Args:
            data: the training data, as named tensors.
        """

    def end_step(self, means: Mapping[str, Tensor]) -> None:
        """Change the state after all updates of one step of training; `pvae.fit` calls this after each step.

        Most objectives change their state in `terms`. An objective that contains another one calls `end_step` of
        the inner one here, because one step computes the terms of the inner objective several times.

        Args:
            means: the recorded terms of the step, means per datum, scalars in nats.
        """

    def diagnose(self) -> None:
        """Warn if the training so far shows a problem; `pvae.fit` calls this after each epoch."""

    @abstractmethod
    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss and its surrogate for one batch, as tensors; no value is read from the device.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
            player: one of `players`.
        """

    def target(self) -> Objective:
        """Return the objective with the expected loss and gradient that this one estimates; by default itself."""
        return self

    def settings(self) -> dict[str, Any]:
        """Return the settings that identify this objective together with its class.

        Tables and run folders record them.
        """
        return {"particles": self.num_particles}

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss of a batch, in nats, without gradients and without a change of state.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        with evaluating(self), torch.no_grad():
            return torch_item(self.terms(model, guide, args, kwargs, self.players[0]).loss)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Return the loss of a batch, in nats, and add its gradients to ``.grad``; `pyro.infer.SVI` calls this.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        with Registration(self):
            total = 0.0
            for player in self.players:
                terms = self.terms(model, guide, args, kwargs, player)
                self._backward(terms.surrogate, model, guide, player)
                total += torch_item(terms.loss)
        return total

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss of a batch, in nats, as a scalar tensor with the gradient of the surrogate.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        total: Tensor | float = 0.0
        for player in self.players:
            terms = self.terms(model, guide, args, kwargs, player)
            total = total + terms.surrogate + (terms.loss - terms.surrogate).detach()
        return torch.as_tensor(total)

    def __call__(self, model: Any, guide: Any) -> ObjectiveModule:  # type: ignore[override]
        """Return a module of both programs with all their parameters; calling it returns the loss of a batch."""
        return ObjectiveModule(model, guide, self)

    def _backward(self, surrogate: Tensor, model: Any, guide: Any, player: str) -> None:
        """Add the gradient of the surrogate to ``.grad`` of the player's parameters."""
        if not surrogate.requires_grad:
            return
        if player == "all":
            surrogate.backward(retain_graph=self.retain_graph)
        else:
            add_gradients(surrogate, player_parameters(self, model, guide, player))

    def _get_trace(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return traces of both programs; Pyro's base class requires this method."""
        return get_importance_trace("flat", self.max_plate_nesting, model, guide, args, kwargs)


def add_gradients(surrogate: Tensor, parameters: list[Any]) -> None:
    """Add the gradient of a surrogate to ``.grad`` of each parameter that it depends on, and of no other parameter."""
    if not surrogate.requires_grad or not parameters:
        return
    gradients = torch.autograd.grad(surrogate, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            present = in_layout_of(gradient, parameter)
            parameter.grad = present if parameter.grad is None else parameter.grad + present


class ObjectiveModule(nn.Module):
    """A model, a guide and an objective as one module; ``forward`` returns the loss of a batch, in nats.

    Its ``state_dict`` has the names of Pyro's `ELBOModule`, so either can load the ``state_dict`` of the other. The
    only further entries are tensors of the objective itself.

    Args:
        model: p(x, z); a bound method keeps its owner.
        guide: q(z given x), likewise.
        objective: the loss.
    """

    def __init__(self, model: Callable[..., Any], guide: Callable[..., Any], objective: Objective) -> None:
        super().__init__()
        programs = [program if isinstance(program, Program) else Program(program) for program in (model, guide)]
        # not registered as submodules, because the parameters of a program that is a module would appear twice
        self.__dict__["_programs"] = tuple(programs)
        self.model = model if isinstance(model, nn.Module) else programs[0]
        self.guide = guide if isinstance(guide, nn.Module) else programs[1]
        self.objective = objective

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the differentiable loss of a batch, a scalar in nats."""
        return self.objective.differentiable_loss(*self.__dict__["_programs"], *args, **kwargs)
