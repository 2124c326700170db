"""Linear-Gaussian models in closed form with a planted defect each, for the tests of findings.

z ~ N(0, I) has two units and x given z ~ N(W z + b, v I) has three features, as in `exact.LinearGaussian`.
"""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from exact import LinearGaussian
from torch import Tensor

from pvae.programs.base import LatentModel


class Planted(LatentModel):
    """The linear-Gaussian model with the exact posterior as its guide, or a guide with a defect.

    Args:
        scale: the factor of the standard deviations of the guide.
        shift: what is added to the guide's mean, in standard deviations of the posterior.
        diagonal: whether the guide is the best Gaussian without correlation.
        prior: whether the guide is the prior.
        collapsed: whether the decoder ignores z; the guide is then the prior, which is exact.
    """

    def __init__(
        self,
        *,
        scale: float = 1.0,
        shift: float = 0.0,
        diagonal: bool = False,
        prior: bool = False,
        collapsed: bool = False,
    ) -> None:
        super().__init__()
        known = LinearGaussian()
        if collapsed:
            known = LinearGaussian(0.0 * known.weight, known.bias, known.variance)
        self.known, self.is_prior = known, prior or collapsed
        _, covariance = known.posterior()
        factor = np.diag(np.diag(known.precision) ** -0.5) if diagonal else np.linalg.cholesky(covariance)
        self.weight, self.bias = torch.tensor(known.weight), torch.tensor(known.bias)
        self.noise = known.variance**0.5
        self.gain = torch.tensor(covariance @ known.weight.T / known.variance)
        self.factor = scale * torch.tensor(factor)
        self.shift = shift * torch.tensor(np.sqrt(np.diag(covariance)))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight.T + self.bias, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            if self.is_prior:
                pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            else:
                mean = (x - self.bias) @ self.gain.T + self.shift
                pyro.sample("z", dist.MultivariateNormal(mean, scale_tril=self.factor))

    def draw(self, count: int, variance: float | None = None, seed: int = 0) -> Tensor:
        """Data of this model, or of one with another variance of x given z, shape (count, 3)."""
        generator = np.random.default_rng(seed)
        z = generator.standard_normal((count, 2))
        noise = np.sqrt(self.known.variance if variance is None else variance)
        return torch.tensor(z @ self.known.weight.T + self.known.bias + noise * generator.standard_normal((count, 3)))


class PlantedPoint(Planted):
    """The same model with a point as its guide, the mean of the posterior."""

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta((x - self.bias) @ self.gain.T).to_event(1))


class OneMode(LatentModel):
    """z ~ half N(-5, 1/4) and half N(5, 1/4), x given z ~ N(abs(z), 1/4); the guide knows the positive mode alone.

    Its q is the posterior given z > 0, so that all weights are equal: p(x) / 2.
    """

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            signs = dist.Categorical(x.new_ones(len(x), 2))
            modes = dist.Normal(x.new_tensor([-5.0, 5.0]).expand(len(x), 2), 0.5)
            z = pyro.sample("z", dist.MixtureSameFamily(signs, modes))
            pyro.sample("x", dist.Normal(z.abs().unsqueeze(-1), 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((5.0 + x[:, 0]) / 2, 0.125**0.5))

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """Data of this model, shape (count, 1)."""
        generator = np.random.default_rng(seed)
        z = 5.0 + 0.5 * generator.standard_normal(count)
        return torch.tensor(z + 0.5 * generator.standard_normal(count)).unsqueeze(-1)
