"""The distance of the guide from the posterior of each datum, estimated from its log weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.evaluate.running_statistics import Bound, Elbo, Statistic
from pvae.json_values import finite_or_none

__all__ = ["WeightTrust", "distance_statistics", "no_trust", "quantiles", "trust_of", "trust_statistics"]


@dataclass(frozen=True)
class WeightTrust:
    """The distance of the guide from the posterior of each datum, from its log weights; shape (data,) each.

    All of them are 0, or 1/2, if the guide is the posterior. They are also 0 or 1/2 if the guide is the posterior on
    one of several modes and never draws the others, so a small distance proves nothing. NaN is "not available": a guide
    that is a point has no density.

    Args:
        log_weight_variance: Var_q[log w], nats squared.
        kl: log p(x) - ELBO, which estimates KL(q to p(z given x)), nats.
        accuracy: the accuracy of the best classifier of draws of q and of the posterior, from 0.5 to 1; from at most
            2000 particles.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> trust = pvae.evaluate.diagnose(model, x, particles=100).trust
        >>> trust.kl.shape, bool((trust.accuracy >= 0.5).all())
        (torch.Size([4]), True)
    """

    log_weight_variance: Tensor
    kl: Tensor
    accuracy: Tensor

    def to_json(self) -> dict[str, Any]:
        """Return the quantiles over data of each number, by name."""
        return {name: quantiles(values) for name, values in vars(self).items()}


def quantiles(values: Tensor) -> dict[str, float | None]:
    """Return the median and the 5% and 95% quantiles over data; NaN values are left out.

    Args:
        values: one number per datum, shape (data,).
    """
    known = values[~values.isnan()]
    if len(known) == 0:
        return {"median": None, "q05": None, "q95": None}
    ordered = known.sort().values
    levels = {"median": 0.5, "q05": 0.05, "q95": 0.95}
    # A quantile is an element of the data, because interpolation between infinities gives NaN.
    indices = {name: round(level * (len(ordered) - 1)) for name, level in levels.items()}
    return {name: finite_or_none(float(ordered[index])) for name, index in indices.items()}


class _LogWeightVariance(Statistic):
    """The variance of the log weights, by sums of deviations from the first ones."""

    def __init__(self) -> None:
        self.count = 0
        self.origin = self.first = self.second = torch.zeros(0, dtype=torch.float64)

    def add(self, log_w: Tensor) -> None:
        """Add the log weights of more particles, shape (particles, batch)."""
        if self.count == 0:
            self.origin = log_w.mean(0)
            self.first = self.second = torch.zeros_like(self.origin)
        deviation = log_w - self.origin
        self.first = self.first + deviation.sum(0)
        self.second = self.second + deviation.square().sum(0)
        self.count += len(log_w)

    def result(self) -> Tensor:
        """Return the unbiased variance of each datum, shape (batch,); NaN for one particle."""
        if self.count < 2:
            return torch.full_like(self.first, math.nan)
        return (self.second - self.first.square() / self.count) / (self.count - 1)


#: The number of particles with weights that are kept.
_MOST_KEPT = 2000


class _ClassifierAccuracy(Statistic):
    """1/2 + E_q |w / E_q w - 1| / 4: half of the total variation distance of q and posterior, plus 1/2.

    The mean weight is known only after the last particle, so the log weights of the first 2000 particles are kept.
    """

    def __init__(self) -> None:
        self.tables: list[Tensor] = []
        self.kept = 0

    def add(self, log_w: Tensor) -> None:
        """Add the log weights of more particles, shape (particles, batch)."""
        few = log_w[: _MOST_KEPT - self.kept]
        if len(few):
            self.tables.append(few)
            self.kept += len(few)

    def result(self) -> Tensor:
        """Return the accuracy of each datum, shape (batch,)."""
        log_w = torch.cat(self.tables)
        relative = (log_w - torch.logsumexp(log_w, 0) + math.log(len(log_w))).exp()
        return 0.5 + 0.25 * (relative - 1.0).abs().mean(0)


def distance_statistics() -> list[Statistic]:
    """Return new statistics: the variance of the log weights, and the accuracy of the best classifier."""
    return [_LogWeightVariance(), _ClassifierAccuracy()]


def trust_statistics(particles: int) -> list[Statistic]:
    """Return new statistics of the weights for `trust_of`.

    Args:
        particles: the number of particles that will be added to each.
    """
    return [Bound(particles), Elbo(), *distance_statistics()]


def trust_of(evidence: Tensor, elbo: Tensor, variance: Tensor, accuracy: Tensor) -> WeightTrust:
    """Return the trust from the results of `trust_statistics`, shape (data,) each.

    Args:
        evidence: log p(x), nats.
        elbo: the ELBO, nats.
        variance: the variance of the log weights.
        accuracy: the accuracy of the best classifier.
    """
    return WeightTrust(variance, evidence - elbo, accuracy)


def no_trust(count: int) -> WeightTrust:
    """Return the trust of a guide without a density, with all numbers not available.

    Args:
        count: the number of data.
    """
    unknown = torch.full((count,), math.nan, dtype=torch.float64)
    return WeightTrust(unknown, unknown, unknown)
