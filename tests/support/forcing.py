"""Choose the draws of a guide: all outcomes of a discrete site, a grid of noise, or noise with exact moments.

`Forced` is the one way to do it. `moments` and `exhaustive` use it to go through every outcome of a discrete guide, and
return the exact mean and variance of an estimator.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import exact
import numpy as np
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, nn

from pvae.densities.mixtures import DiagonalMixture
from pvae.weights import trace_weights

DOUBLE = torch.float64
_ALL_VALUES = ("enumerate", "sum")
_MOST_OUTCOMES = 81


class Forced(Messenger):
    """Give latent sites chosen values: ``with Forced({"z": values}): ...``, around a loss or inside a guide.

    A draw is replaced if it has as many numbers as the chosen value. A run of another size draws as usual, such as the
    run that finds the layout of the programs. Sites whose values are all enumerated keep them. Inside a guide, the size
    is that before plates are applied: particles that share a run are not seen there.

    Args:
        values: by site, as many numbers as (particles, batch, *event).
        noise: by site, for distributions with ``loc`` and ``scale`` and a pathwise gradient: the value is
            ``loc + scale * noise``, with the mean ``loc`` and ``scale`` of the components of a mixture. One number
            without a shape is the noise of any draw.
    """

    def __init__(self, values: Mapping[str, Tensor] | None = None, noise: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.values, self.noise = values or {}, noise or {}

    def _pyro_sample(self, msg: Any) -> None:
        name, strategy = msg["name"], msg["infer"].get("_strategy")
        chosen = name in self.values or name in self.noise
        if not chosen or msg["is_observed"] or strategy in _ALL_VALUES:
            return
        if msg["done"] and (name in self.noise or strategy is None or _is_replayed(name)):
            return  # a value of another run; or a branch, which a strategy runs at values of its own
        shape = torch.Size(msg["fn"].shape())
        value = self._value(name, msg["fn"], shape)
        if value is not None:
            msg["value"], msg["done"] = value, True

    def _value(self, name: str, distribution: Any, shape: torch.Size) -> Tensor | None:
        """The chosen value of a site in the shape of its draw; None where it does not fit."""
        if name in self.values:
            return self.values[name].reshape(shape) if self.values[name].numel() == shape.numel() else None
        noise, normal = self.noise[name], getattr(distribution, "base_dist", distribution)
        if noise.dim() > 0 and noise.numel() != shape.numel():
            return None
        noise = noise.expand(shape) if noise.dim() == 0 else noise.reshape(shape)
        loc, scale = normal.loc, normal.scale
        if isinstance(normal, DiagonalMixture):
            weights = normal.logits.softmax(-1).unsqueeze(-1)
            loc, scale = (weights * loc).sum(-2), (weights * scale).sum(-2)
        value: Tensor = loc + scale * noise
        return value


def _is_replayed(name: str) -> bool:
    """Whether a handler in force takes the site's value from a trace."""
    replays = [handler.trace for handler in _PYRO_STACK if isinstance(handler, ReplayMessenger)]
    return any(trace is not None and name in trace for trace in replays)


def sigma_points(units: int, rows: int) -> Tensor:
    """Return noise for ``2 * units`` particles whose mean is 0 and whose covariance is I: shape (2 units, rows, units).

    The draws of a Normal by it are mean +- sd sqrt(units), one unit at a time, so that its first two moments are exact.
    """
    noise = units**0.5 * torch.cat([torch.eye(units, dtype=DOUBLE), -torch.eye(units, dtype=DOUBLE)])
    return noise[:, None, :].expand(-1, rows, -1)


@dataclass(frozen=True)
class Moments:
    """Exact moments of an estimator of one datum.

    Attributes:
        value: the mean of the reported bound.
        mean: the mean of the gradient of the bound.
        variance: the trace of the gradient's covariance.
        total: the sum of the outcomes' probabilities, which is 1.
    """

    value: float
    mean: np.ndarray
    variance: float
    total: float


def moments(
    objective: Any, model: nn.Module, x: Tensor, supports: Mapping[str, Tensor], parameters: list[Tensor]
) -> Moments:
    """Run an objective on one datum for each joint outcome of the particles' draws.

    Args:
        objective: whose terms are taken.
        model: whose guide draws the sites of `supports` and no others.
        x: shape (1, ...).
        supports: all values of each site, shape (values, *event).
        parameters: of which the gradient is taken.
    """
    names = list(supports)
    joint = list(itertools.product(*(range(len(supports[name])) for name in names)))
    probabilities, bounds, gradients = [], [], []
    for outcome in itertools.product(joint, repeat=objective.particles):
        picks = torch.tensor(outcome)
        values = {name: supports[name][picks[:, place]][:, None] for place, name in enumerate(names)}
        with Forced(values):
            log_guide = trace_weights(
                model.model, model.guide, (x,), {}, objective.particles, choose=lambda site: "score"
            ).log_guide
            terms = objective.terms(model.model, model.guide, (x,), {}, objective.players[0])
        probabilities.append(log_guide.sum().exp().item())
        bounds.append(-terms.loss.item())
        gradients.append(_flat_gradient(-terms.surrogate, parameters))
    shares, gradient = np.array(probabilities), np.stack(gradients)
    mean = shares @ gradient
    variance = float(shares @ ((gradient - mean) ** 2).sum(1))
    return Moments(float(shares @ np.array(bounds)), mean, variance, float(shares.sum()))


def _flat_gradient(value: Tensor, parameters: list[Tensor]) -> np.ndarray:
    """The gradient in all parameters as one vector, 0 for parameters without one."""
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    parts = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    return torch.cat([part.ravel() for part in parts]).detach().numpy()


def exhaustive(objective: Any, x: int = 0, logits: np.ndarray = exact.C_LOGITS) -> tuple[float, np.ndarray, float]:
    """Exact moments on the enumerable categorical model: of the value, and of the gradient in the logits of x.

    Each joint outcome of the particles is one datum of a batch, counted by its probability.

    Returns:
        The mean of the value, the mean of the gradient, and the trace of the gradient's covariance, which is 0 where
        the outcomes are too many to go through one by one.
    """
    particles = objective.particles
    model = exact.DiscreteModel(logits)
    outcomes = torch.tensor(list(itertools.product(range(3), repeat=particles))).T
    data = torch.full((outcomes.shape[1],), x)
    shares = torch.tensor(exact.Discrete(logits).log_guide[x])[outcomes].sum(0).exp()
    with Forced({"z": outcomes}):
        scaled = [poutine.scale(program, scale=shares) for program in (model.model, model.guide)]
        terms = objective.terms(*scaled, (data,), {}, "all")
        mean = torch.autograd.grad(terms.surrogate, model.logits)[0][x].numpy()
    return -terms.loss.item(), -mean, _variance(objective, model, outcomes, data, shares, mean)


def _variance(objective: Any, model: Any, outcomes: Tensor, data: Tensor, shares: Tensor, mean: np.ndarray) -> float:
    """Trace of the covariance of the gradient, outcome by outcome; outcomes have shape (particles, outcomes)."""
    if outcomes.shape[1] > _MOST_OUTCOMES:
        return 0.0
    total = 0.0
    for outcome, x, share in zip(outcomes.T, data, shares, strict=True):
        with Forced({"z": outcome[:, None]}):
            terms = objective.terms(model.model, model.guide, (x[None],), {}, "all")
        gradient = torch.autograd.grad(terms.surrogate, model.logits)[0][x].numpy()
        total += share.item() * ((gradient - mean) ** 2).sum()
    return total
