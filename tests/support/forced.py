"""Draws that a test chooses: all outcomes of a discrete guide, or samples that match a law exactly."""

from __future__ import annotations

import itertools
from typing import Any

import exact
import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

DOUBLE = torch.float64


class Forced(Messenger):
    """Gives the site ``z`` these values wherever it has as many."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = values

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == "z" and msg["value"].numel() == self.values.numel():
            msg["value"] = self.values.reshape(msg["value"].shape)


def exhaustive(objective: Any, x: int = 0, logits: np.ndarray = exact.C_LOGITS) -> tuple[float, np.ndarray, float]:
    """The exact mean of an objective's value on model C, of the gradient in the logits of x, and its trace variance.

    Each joint outcome of the particles is one datum of a batch, counted by its probability.
    """
    particles = objective.particles
    model = exact.DiscreteModel(logits)
    outcomes = torch.tensor(list(itertools.product(range(3), repeat=particles))).T
    data = torch.full((outcomes.shape[1],), x)
    shares = torch.tensor(exact.Discrete(logits).log_guide[x])[outcomes].sum(0).exp()
    with Forced(outcomes):
        scaled = [poutine.scale(each, scale=shares) for each in (model.model, model.guide)]
        terms = objective.terms(*scaled, (data,), {}, "all")
        mean = torch.autograd.grad(terms.surrogate, model.logits)[0][x].numpy()
    return -terms.loss.item(), -mean, _variance(objective, model, outcomes, data, shares, mean)


def _variance(objective: Any, model: Any, outcomes: Tensor, data: Tensor, shares: Tensor, mean: np.ndarray) -> float:
    """Trace of the covariance of the gradient, outcome by outcome; 0 where they are too many to go through."""
    if outcomes.shape[1] > 81:
        return 0.0
    total = 0.0
    for outcome, x, share in zip(outcomes.T, data, shares, strict=True):
        with Forced(outcome[:, None]):
            terms = objective.terms(model.model, model.guide, (x[None],), {}, "all")
        found = torch.autograd.grad(terms.surrogate, model.logits)[0][x].numpy()
        total += share.item() * ((found - mean) ** 2).sum()
    return total


class SigmaPoints(dist.Normal):
    """A Normal whose two draws per unit are mean +- sd sqrt(units), one unit at a time: moments 1 and 2 are exact.

    It is drawn for ``2 * units`` particles, in the shape (particles, batch, units).
    """

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        units = self.loc.shape[-1]
        if self.loc.dim() < 3 or self.loc.shape[0] != 2 * units:
            return super().rsample(sample_shape)
        noise = units**0.5 * torch.cat([torch.eye(units), -torch.eye(units)]).to(self.loc)
        return self.loc + self.scale * noise[:, None, :]

    def expand(self, batch_shape: Any, _instance: Any = None) -> SigmaPoints:
        return SigmaPoints(self.loc.expand(batch_shape), self.scale.expand(batch_shape))
