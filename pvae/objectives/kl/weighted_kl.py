"""Objectives with a weight or a target of the KL divergence that may change in training: beta-VAE, capacity."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import require_number
from pvae.objectives.base import Terms
from pvae.objectives.kl.batch_kl import BatchKLObjective, batch_mean
from pvae.objectives.kl.schedules import Schedule
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.programs.bound import BoundPrograms
from pvae.programs.data_counter import DataCounter
from pvae.weights import LogWeights

__all__ = ["Beta", "Capacity", "StatefulObjective", "WeightedELBO", "not_negative"]


def not_negative(name: str, number: Any) -> float:
    """Return a setting as a number.

    Args:
        name: the name of the setting, for the error.
        number: its value.

    Raises:
        InputError: if it is not a number of at least 0.
    """
    return float(require_number(number, name, least=0, infinite=True))


class StatefulObjective(WeightsObjective):
    """An objective with a state that changes in each step of training, such as a schedule or a multiplier.

    The numbers of `shown` are recorded with the loss.

    Attributes:
        steps: the number of training steps so far, a buffer.
        advances: whether `terms` changes the state in training. An outer objective that computes the terms of this one
            several times in a step sets it to False, and calls `end_step` at the end of the step.
    """

    steps: Tensor
    advances: bool = True

    def __init__(self, particles: int, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def shown(self, like: Tensor) -> dict[str, Tensor]:
        """Return scalars to be recorded, such as coefficients.

        Args:
            like: a tensor of the data type and device of the result.
        """

    def advance(self, means: Mapping[str, Tensor]) -> None:
        """Change the state after one step of training.

        Args:
            means: the recorded terms of the step, means per datum, scalars in nats.
        """
        self.steps.add_(1)

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch: minus the sum over data of the bound, each times its scale.

        In training, the state changes afterwards, unless `advances` is False.
        """
        with DataCounter(BoundPrograms(model, guide, args, kwargs), self.data_plate) as counter:
            terms = self._step_terms(model, guide, args, kwargs)
        # Multiply by the count because the trainer divides by it, and these numbers are not sums over data.
        shown = {name: number * counter.count for name, number in self.shown(terms.loss).items()}
        if self.training and self.advances:
            self.advance({name: total / counter.count for name, total in terms.named.items()})
        return replace(terms, named={**terms.named, **shown})

    def _step_terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Terms:
        """Return the terms of a batch before the state changes, without the numbers of `shown`.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        return super().terms(model, guide, args, kwargs, "all")


class WeightedELBO(StatefulObjective):
    """Maximises a * log_likelihood - b * kl, per datum; the coefficients a and b may change in training."""

    pathwise = False
    averages = True

    @abstractmethod
    def coefficients(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return a and b, scalars without gradient.

        Args:
            like: a tensor of the data type and device of the result.
        """

    @property
    def entropy(self) -> float | Tensor:  # type: ignore[override]
        """The factor of -log q(z given x) in the number of each particle, a scalar."""
        return self.coefficients(torch.zeros((), dtype=torch.float64, device=self.steps.device))[1]

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the weighted ELBO, shape (batch,), in nats."""
        likelihood = weights.log_likelihood()
        a, b = self.coefficients(weights.log_joint)
        return (a * likelihood - b * (likelihood - weights.log_w)).mean(-2)


@named("beta", "beta-VAE: weights the KL by beta, which is constant or follows a warm-up")
class Beta(WeightedELBO):
    """The beta-VAE's objective: E log p(x given z) - beta KL(q to prior), per datum.

    A beta above 1 moves the codes towards the prior, and a beta below 1 improves the reconstructions; 1 gives the ELBO.
    A warm-up starts with a small weight of the KL, so that units do not become inactive before the decoder has learnt
    to use them.

    Args:
        beta: the weight of the KL at the end of the schedule. The default is the paper's 4.
        particles: draws of z per datum.
        schedule: ``"constant"``, ``"linear"`` or ``"cyclical"`` (see `pvae.objectives.Schedule`).
        warm_up: the number of training steps of the schedule.
        start: the weight at the start of a linear or cyclical schedule.
        cycles: the number of cycles of a cyclical schedule.
        rise: the share of a cycle in which the weight rises.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative weight, or an unknown schedule.

    Source: Higgins et al., beta-VAE, ICLR 2017, equation 4; Bowman et al., arXiv:1511.06349, section 3.1 (linear
        warm-up); Fu et al., arXiv:1903.10145 (cyclical).

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> beta = pvae.Beta(4.0, schedule="linear", warm_up=100)
        >>> terms = beta.terms(model.model, model.guide, (x,), {}, "all")
        >>> sorted(terms.named)
        ['beta', 'elbo', 'kl', 'log_likelihood']
    """

    def __init__(
        self,
        beta: float = 4.0,
        particles: int = 1,
        schedule: str = "constant",
        warm_up: int = 1000,
        start: float = 0.0,
        cycles: int = 4,
        rise: float = 0.5,
        **options: Unpack[WeightsOptions],
    ) -> None:
        super().__init__(particles, **options)
        end = not_negative("beta", beta)
        self.schedule = Schedule(schedule, not_negative("start", start), end, warm_up, cycles, rise)

    def settings(self) -> dict[str, Any]:
        """Return beta, the number of particles, and the schedule if it is not constant."""
        return {"beta": self.schedule.end, **self.schedule.settings(), **super().settings()}

    def coefficients(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return 1 and beta."""
        return 1.0, self.schedule.at(self.steps, like)

    def shown(self, like: Tensor) -> dict[str, Tensor]:
        """Return beta at this step."""
        return {"beta": self.schedule.at(self.steps, like)}


@named("capacity", "keeps the mean KL of a batch near a capacity that grows during training; biased in small batches")
class Capacity(BatchKLObjective, StatefulObjective):
    """Keeps the KL near a capacity that grows: E log p(x given z) - gamma * abs(KL - C), with the mean KL of the batch.

    The KL is in closed form if there is one (see `FreeBits`). The gradient is biased near the capacity, where a mean KL
    with noise is above C in one batch and below it in the next. With one unit, 400 data and a KL 10 % below C, the mean
    gradient of the distance was 11 % of that of all data in batches of 8, 40 % in batches of 32 and 90 % in batches of
    128.

    Args:
        capacity: C at the end, in nats per datum. The default is the paper's 25.
        gamma: the weight of the distance. The default is the paper's 1000.
        steps: the number of training steps in which C grows linearly from 0. The default is the paper's 100000.
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative capacity or weight; in use, if a guide site is not reparameterised.

    Source: Burgess et al., Understanding disentangling in beta-VAE, arXiv:1804.03599, equation 8.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> objective = pvae.Capacity(25.0, steps=1000)
        >>> terms = objective.terms(model.model, model.guide, (x,), {}, "all")
        >>> terms.named["capacity"]  # 0 before the first step
        tensor(0.)
    """

    def __init__(
        self,
        capacity: float = 25.0,
        gamma: float = 1000.0,
        steps: int = 100_000,
        particles: int = 1,
        **options: Unpack[WeightsOptions],
    ) -> None:
        super().__init__(particles, **options)
        self.gamma = not_negative("gamma", gamma)
        self.schedule = Schedule("linear", 0.0, not_negative("capacity", capacity), steps)

    def settings(self) -> dict[str, Any]:
        """Return the capacity, the weight, the steps and the number of particles."""
        capacity = {"capacity": self.schedule.end, "gamma": self.gamma, "steps": self.schedule.steps}
        return {**capacity, **super().settings()}

    def shown(self, like: Tensor) -> dict[str, Tensor]:
        """Return the capacity at this step."""
        return {"capacity": self.schedule.at(self.steps, like)}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return a number per datum with the gradient of the objective, shape (batch,).

        The distance is the absolute value of a mean over data. For a fixed sign it is linear in the KL of each datum.
        """
        sign = self._excess(weights).sign()
        return (weights.log_likelihood() - self.gamma * sign * self._kl(weights)).mean(0)

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the objective's value, shape (batch,), in nats."""
        distance = self._excess(weights).abs()
        return weights.log_likelihood().detach().mean(0) - self.gamma * distance

    def _kl(self, weights: LogWeights) -> Tensor:
        """Return the KL of all sites, shape (particles, batch), nats."""
        return torch.cat(list(self.kl_by_unit(weights).values()), -1).sum(-1)

    def _excess(self, weights: LogWeights) -> Tensor:
        """Return the mean KL of the batch minus the capacity, a scalar in nats, without gradient."""
        kl = batch_mean(self._kl(weights).detach().mean(0), weights)
        return kl - self.schedule.at(self.steps, kl)
