"""Every outcome of a discrete guide, one by one: the exact mean and variance of an estimator, with no sampling."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from pvae.weights import trace_weights
from pvae.weights.handlers import SiteStrategyMessenger


@contextmanager
def forced(values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the guide's sites draw these values, shape (particles, batch, *event); what branches draw stays random."""
    drawn = SiteStrategyMessenger._value

    def value(self: SiteStrategyMessenger, msg: Any, strategy: str) -> Any:
        shape = (*msg["fn"].batch_shape, *msg["fn"].event_shape)
        if strategy in ("enumerate", "sum"):
            return drawn(self, msg, strategy)
        if msg["name"] not in values or values[msg["name"]].numel() != torch.Size(shape).numel():
            return drawn(self, msg, strategy)  # a look at the layout
        return values[msg["name"]].reshape(shape)

    with mock.patch.object(SiteStrategyMessenger, "_value", value):
        yield


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
    found = []
    for outcome in itertools.product(joint, repeat=objective.particles):
        picks = torch.tensor(outcome)
        values = {name: supports[name][picks[:, place]][:, None] for place, name in enumerate(names)}
        with forced(values):
            probability = trace_weights(
                model.model, model.guide, (x,), {}, objective.particles, choose=lambda site: "score"
            ).log_guide.sum()
            terms = objective.terms(model.model, model.guide, (x,), {}, objective.players[0])
        gradients = torch.autograd.grad(-terms.surrogate, parameters, allow_unused=True)
        flat = [
            torch.zeros_like(p).ravel() if g is None else g.ravel() for p, g in zip(parameters, gradients, strict=True)
        ]
        found.append((probability.exp().item(), -terms.loss.item(), torch.cat(flat).detach().numpy()))
    shares = np.array([each[0] for each in found])
    bounds = np.array([each[1] for each in found])
    gradient = np.stack([each[2] for each in found])
    mean = shares @ gradient
    variance = float(shares @ ((gradient - mean) ** 2).sum(1))
    return Moments(float(shares @ bounds), mean, variance, float(shares.sum()))
