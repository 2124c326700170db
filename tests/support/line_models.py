"""A linear Gaussian model of one latent and one observed number, with exact evidence."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pvae


class Line(pvae.LatentModel):
    """z ~ N(0, 1), x ~ N(loc + slope z, noise^2): p(x) = N(loc, slope^2 + noise^2); guide N(weight x, variance)."""

    def __init__(
        self, loc: float = 1.0, slope: float = 1.2, noise: float = 0.9, weight: float = 0.0, variance: float = 1.0
    ) -> None:
        super().__init__()
        self.loc, self.slope, self.weight, self.spread = (
            nn.Parameter(torch.tensor(each, dtype=torch.float64))
            for each in (loc, slope, weight, math.log(variance) / 2)
        )
        self.noise = noise

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.loc + self.slope * z, self.noise).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.weight * x, self.spread.exp()).to_event(1))

    def theta(self) -> list[nn.Parameter]:
        return [self.loc, self.slope]

    def phi(self) -> list[nn.Parameter]:
        return [self.weight, self.spread]


class Point(Line):
    """The same model with a deterministic encoder."""

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(self.weight * x, event_dim=1))


def draws(size: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(size, 1, generator=generator, dtype=torch.float64)
