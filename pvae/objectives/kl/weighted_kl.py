"""Objectives that weigh reconstruction against the KL divergence: beta-VAE, capacity, free bits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import require_number, require_whole
from pvae.errors import InputError
from pvae.objectives.base import Call, Terms
from pvae.objectives.kl.kl_by_unit import kl_by_unit
from pvae.objectives.kl.schedules import Schedule
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.programs.bound import BoundPrograms
from pvae.weights import LogWeights

__all__ = ["Beta", "Capacity", "FreeBits", "Tilted", "batch_mean", "not_negative"]


def batch_mean(values: Tensor, weights: LogWeights) -> Tensor:
    """Return the mean over data of values of shape (..., batch), each datum counted by its scale."""
    if not isinstance(weights.scale, Tensor) or not weights.scale.dim():
        return values.mean(-1)
    return (values * weights.scale).sum(-1) / weights.scale.sum()


def not_negative(name: str, number: Any) -> float:
    """Return a setting as a number.

    Raises:
        InputError: if it is none, or below 0.
    """
    return float(require_number(number, name, least=0, infinite=True))


class Advancing(WeightsObjective):
    """An objective whose state moves with each step of training.

    Whatever it is, the ELBO is recorded as ``elbo`` beside the loss, and what `shown` returns with it.
    """

    steps: Tensor

    def __init__(self, particles: int, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def shown(self, like: Tensor) -> dict[str, Tensor]:
        """Return scalars worth recording, such as coefficients, of the type of `like`."""

    def advance(self, means: Mapping[str, Tensor]) -> None:
        """Move the state by one step of training, given the recorded terms per datum."""
        self.steps.add_(1)

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch, as any objective of weights; in training, move the state on."""
        # before the terms: a first look at a layout writes buffers back, which autograd would find changed
        count = BoundPrograms(model, guide, args, kwargs).count
        terms = super().terms(model, guide, args, kwargs, player)
        # these are no sums over data: times the count, so that the trainer's division gives them back
        shown = {name: each * count for name, each in self.shown(terms.loss).items()}
        if self.training:
            self.advance({name: each / count for name, each in terms.named.items()})
        return replace(terms, named={**terms.named, **shown})


class Tilted(Advancing):
    """Maximises a * log_likelihood - b * kl, per datum, with coefficients that depend on the training so far."""

    pathwise = False
    averages = True

    @abstractmethod
    def coefficients(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return a and b, scalars without gradient, of the type of `like`."""

    @property
    def entropy(self) -> float | Tensor:  # type: ignore[override]
        """The factor of -log q(z given x)."""
        return self.coefficients(torch.zeros((), dtype=torch.float64, device=self.steps.device))[1]

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the tilted bound, shape (batch,), in nats."""
        likelihood, (a, b) = weights.log_likelihood(), self.coefficients(weights.log_joint)
        return (a * likelihood - b * (likelihood - weights.log_w)).mean(-2)


@named("beta", "beta-VAE: the KL weighted by beta, constant or warmed up")
class Beta(Tilted):
    """The beta-VAE's objective: E log p(x given z) - beta KL(q to prior), per datum.

    Above 1 it asks for codes nearer the prior, below 1 for better reconstructions; 1 gives the ELBO. Warm-up starts
    with little weight on the KL, so that units are not lost before the decoder has learnt to use them.

    Args:
        beta: the weight of the KL, at the end of the schedule; the paper's 4 is the default.
        particles: draws of z per datum.
        schedule: ``"constant"``, ``"linear"`` or ``"cyclical"`` (see `pvae.objectives.Schedule`).
        warm_up: steps of training that the schedule takes.
        start: where a linear or cyclical schedule starts.
        cycles: how many cycles a cyclical one has.
        rise: the part of a cycle that rises.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative weight, or a schedule that is none.
    Source: Higgins et al., beta-VAE, ICLR 2017, equation 4; Bowman et al., arXiv:1511.06349, section 3.1 (linear
        warm-up); Fu et al., arXiv:1903.10145 (cyclical).
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
        beta, start = not_negative("beta", beta), not_negative("start", start)
        self.schedule = Schedule(schedule, start, beta, warm_up, cycles, rise)

    def settings(self) -> dict[str, Any]:
        """Return beta, the number of particles, and the schedule where there is one."""
        return {"beta": self.schedule.end, **self.schedule.settings(), **super().settings()}

    def coefficients(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Return 1 and beta."""
        return 1.0, self.schedule.at(self.steps, like)

    def shown(self, like: Tensor) -> dict[str, Tensor]:
        """Return beta at this step."""
        return {"beta": self.schedule.at(self.steps, like)}


@named("capacity", "the KL held at a capacity that grows")
class Capacity(Advancing):
    """Keeps the KL at a capacity that grows: E log p(x given z) - gamma * abs(KL - C), the KL being the batch's mean.

    The KL is the closed form where there is one (see `FreeBits`).

    Args:
        capacity: C in nats per datum, reached at the end; the paper's 25 is the default.
        gamma: the weight of the distance; the paper's is 1000.
        steps: of training in which C grows linearly from 0; the paper's 100000 is the default.
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative capacity or weight; in use, if a guide site is not reparameterised.
    Source: Burgess et al., Understanding disentangling in beta-VAE, arXiv:1804.03599, equation 8.
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
        shape = {"capacity": self.schedule.end, "gamma": self.gamma, "steps": self.schedule.steps}
        return {**shape, **super().settings()}

    def shown(self, like: Tensor) -> dict[str, Tensor]:
        """Return the capacity at this step."""
        return {"capacity": self.schedule.at(self.steps, like)}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the bound's gradient datum by datum: beyond its sign, the distance is linear in each KL."""
        side = self._excess(weights).sign()
        return (weights.log_likelihood() - self.gamma * side * self._kl(weights)).mean(0)

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the objective's value, shape (batch,), in nats."""
        distance = self._excess(weights).abs()
        return weights.log_likelihood().detach().mean(0) - self.gamma * distance

    def _kl(self, weights: LogWeights) -> Tensor:
        return torch.cat(list(kl_by_unit(weights, self.data_plate).values()), -1).sum(-1)

    def _excess(self, weights: LogWeights) -> Tensor:
        kl = batch_mean(self._kl(weights).detach().mean(0), weights)
        return kl - self.schedule.at(self.steps, kl)


@named("free-bits", "no charge for a KL below a threshold, by unit, site or group")
class FreeBits(WeightsObjective):
    """Charges no KL below a threshold: E log p(x given z) - sum over groups of max(nats, KL of the group).

    The KL of a group is its mean over the batch and the particles. It is the closed form where the guide's and the
    prior's densities of a site factorise over units, have one, and depend on nothing that the guide draws later; else
    it is estimated from the draws, unit by unit where both factorise, and for the site as a whole where not.

    Args:
        nats: the threshold, per group; the paper tries 0.125 to 2.
        by: ``"unit"`` (each latent unit is a group), ``"site"``, or a number of equal groups of a site's units.
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative threshold or a grouping that is none; in use, if the units cannot be grouped so, or
            a guide site is not reparameterised.
    Source: Kingma et al., Inverse Autoregressive Flow, arXiv:1606.04934, equation 15.
    """

    def __init__(
        self, nats: float = 0.25, by: str | int = "unit", particles: int = 1, **options: Unpack[WeightsOptions]
    ) -> None:
        super().__init__(particles, **options)
        self.nats = not_negative("nats", nats)
        advice = "It is the number of groups per site; 'unit' or 'site' are also accepted."
        self.by = by if by in ("unit", "site") else require_whole(by, "by", advice=advice)

    def settings(self) -> dict[str, Any]:
        """Return the threshold, the grouping and the number of particles."""
        return {"nats": self.nats, "by": self.by, **super().settings()}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the bound, shape (batch,), in nats: the penalty is the same for every datum."""
        by_site = kl_by_unit(weights, self.data_plate)
        groups = [self._grouped(name, kl.mean(0)) for name, kl in by_site.items()]
        charged = [batch_mean(each.T, weights).clamp_min(self.nats).sum() for each in groups]
        return weights.log_likelihood().mean(0) - torch.stack(charged).sum()

    def _grouped(self, name: str, kl: Tensor) -> Tensor:
        """The KL of each group of a site's units, shape (batch, groups)."""
        if self.by == "unit":
            return kl
        groups = 1 if self.by == "site" else int(self.by)
        if kl.shape[1] % groups:
            raise InputError(f"The {kl.shape[1]} units of site {name!r} do not make {groups} equal groups.")
        return kl.unflatten(1, (groups, -1)).sum(-1)
