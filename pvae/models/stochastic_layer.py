"""A diagonal Gaussian that depends on latent values: its scale is a softplus, which is safe for any draw."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

from pvae.networks import MLP, initialise

__all__ = ["SoftplusGaussian", "StochasticLayer"]

_SMALLEST_SCALE = 1e-3
# softplus of this bias, plus the smallest scale, is 1
_BIAS_OF_SCALE_ONE = math.log(math.expm1(1 - _SMALLEST_SCALE))


class SoftplusGaussian(nn.Module):
    """Normal(loc(h), scale(h)), with a linear loc and a scale that is softplus of a linear layer and starts at 1.

    The input h may contain draws. An exponential of them would sometimes give a scale of 0 or infinity.

    Args:
        in_features: size of h.
        latent: size of the event.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.

    Shapes: (..., in_features) to batch shape (...), event shape (latent,).
    """

    def __init__(self, in_features: int, latent: int, initialisation: str) -> None:
        super().__init__()
        self.loc, self.scale = nn.Linear(in_features, latent), nn.Linear(in_features, latent)
        initialise(self, initialisation)
        nn.init.zeros_(self.scale.weight)
        nn.init.constant_(self.scale.bias, _BIAS_OF_SCALE_ONE)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return the Gaussian of inputs (..., in_features), batch shape (...), event shape (latent,)."""
        return dist.Normal(self.loc(h), softplus(self.scale(h)) + _SMALLEST_SCALE).to_event(1)


class StochasticLayer(nn.Module):
    """A network and a diagonal Gaussian of its output.

    Args:
        in_features: size of the input.
        latent: size of the event.
        hidden: sizes of the hidden layers of the network.
        style: activation and initialisation.

    Shapes: (..., in_features) to batch shape (...), event shape (latent,).
    """

    def __init__(self, in_features: int, latent: int, hidden: tuple[int, ...], **style: Any) -> None:
        super().__init__()
        self.network = MLP(in_features, hidden=hidden, **style)
        self.density = SoftplusGaussian(self.network.out_features, latent, style["initialisation"])

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """Return the Gaussian of inputs (..., in_features), batch shape (...), event shape (latent,)."""
        return self.density(self.network(h))
