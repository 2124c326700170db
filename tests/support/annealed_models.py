"""Models of one datum with a closed-form log evidence, for annealing: constrained supports, discrete sites, plates."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor

DOUBLE = torch.float64


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


class GammaPoisson:
    """rate ~ Gamma(2, 0.5), x ~ Poisson(rate): a negative binomial evidence. Support: positive numbers."""

    name = "GammaPoisson"
    x = torch.tensor([7.0], dtype=DOUBLE)

    def log_evidence(self, x: Tensor) -> Tensor:
        return torch.from_numpy(stats.nbinom.logpmf(x.numpy(), 2.0, 0.5 / 1.5))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(_number(2.0), _number(0.5)))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.LogNormal(_number(1.5), _number(0.6)))


class BetaBernoulli:
    """share ~ Beta(2, 3), five Bernoulli(share) in an inner plate: a beta-binomial evidence. Support: (0, 1)."""

    name = "BetaBernoulli"
    x = torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0]], dtype=DOUBLE)

    def log_evidence(self, x: Tensor) -> Tensor:
        ones = x.numpy().sum(1)
        return torch.from_numpy(special.betaln(2 + ones, 8 - ones) - special.betaln(2, 3))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            share = pyro.sample("share", dist.Beta(_number(2.0), _number(3.0)))
            with pyro.plate("tosses", 5, dim=-2):
                pyro.sample("x", dist.Bernoulli(share), obs=x.T)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("share", dist.Beta(_number(4.0), _number(2.0)))


class DirichletMultinomial:
    """shares ~ Dirichlet(1, 2, 0.8), x ~ Multinomial(6, shares). Support: the simplex."""

    name = "DirichletMultinomial"
    x = torch.tensor([[3.0, 1.0, 2.0]], dtype=DOUBLE)
    concentration = np.array([1.0, 2.0, 0.8])

    def log_evidence(self, x: Tensor) -> Tensor:
        return torch.from_numpy(stats.dirichlet_multinomial(self.concentration, 6).logpmf(x.numpy().astype(int)))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            shares = pyro.sample("shares", dist.Dirichlet(torch.tensor(self.concentration)))
            pyro.sample("x", dist.Multinomial(6, shares), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("shares", dist.Dirichlet(torch.tensor([3.0, 2.0, 2.0], dtype=DOUBLE)))


class GaussianMixture:
    """y ~ Categorical, z given y ~ N(mean_y, 0.5^2), x given z ~ N(z, 0.6^2): y is discrete, and unmarked."""

    name = "GaussianMixture"
    x = torch.tensor([0.7], dtype=DOUBLE)
    means, shares = torch.tensor([-1.5, 0.5, 2.0], dtype=DOUBLE), torch.tensor([0.3, 0.5, 0.2], dtype=DOUBLE)

    def log_evidence(self, x: Tensor) -> Tensor:
        densities = dist.Normal(self.means, math.sqrt(0.25 + 0.36)).log_prob(x.unsqueeze(-1)).exp()
        return (self.shares * densities).sum(-1).log()

    def __init__(self, marked: bool = False) -> None:
        self.infer = {"enumerate": "parallel"} if marked else {}

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(self.shares), infer=dict(self.infer))
            z = pyro.sample("z", dist.Normal(self.means[y], 0.5))
            pyro.sample("x", dist.Normal(z, 0.6), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3, dtype=DOUBLE) / 3), infer=dict(self.infer))
            pyro.sample("z", dist.Normal(0.3 * self.means[y] + 0.4, 1.1))


class MixtureOfNormals(GaussianMixture):
    """The same density of x, with z drawn from one mixture distribution in the place of y and z."""

    name = "MixtureOfNormals"

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            components = dist.Normal(self.means, 0.5)
            z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(self.shares), components))
            pyro.sample("x", dist.Normal(z, 0.6), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(_number(0.4), 1.2))


class InnerPlate:
    """Two sites in plates on both sides of the data: b of shape (2, data), a of shape (data,); x = a + b + noise."""

    name = "InnerPlate"
    x = torch.tensor([[0.4, -0.8]], dtype=DOUBLE)

    def log_evidence(self, x: Tensor) -> Tensor:
        covariance = np.ones((2, 2)) + (0.25 + 0.49) * np.eye(2)
        return torch.from_numpy(stats.multivariate_normal(np.zeros(2), covariance).logpdf(x.numpy()))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(_number(0.0), 1.0))
            with pyro.plate("parts", 2, dim=-2):
                b = pyro.sample("b", dist.Normal(torch.zeros(2, len(x), dtype=DOUBLE), 0.5))
                pyro.sample("x", dist.Normal(a + b, 0.7), obs=x.T)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("a", dist.Normal(_number(-0.1), 0.6))
            with pyro.plate("parts", 2, dim=-2):
                pyro.sample("b", dist.Normal(torch.zeros(2, len(x), dtype=DOUBLE), 0.5))
