"""Densities of a deterministic autoencoder: a point as q(z given x), and a flat prior."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.networks import initialise

__all__ = ["Flat", "Point"]


class Point(nn.Module):
    """The point posterior q(z given x) = Delta(loc(h)), a deterministic encoder.

    A point has no density, so there is no log weight and no ELBO; the objective `dirac` trains it.

    Args:
        in_features: size of the encoder's output h.
        latent: number of latent dimensions.
        initialisation: a name of `pvae.networks.INITIALISATIONS`, for the linear head.

    Raises:
        InputError: for an unknown name, or if `latent` is not a whole number of at least 1.
    """

    def __init__(self, in_features: int, latent: int, *, initialisation: str = "glorot") -> None:
        super().__init__()
        self.in_features, self.latent = in_features, require_whole(latent, "latent")
        self.loc = nn.Linear(in_features, latent)
        initialise(self, initialisation)

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return the point for features (..., in_features): batch shape (...), event shape (latent,)."""
        return dist.Delta(self.loc(context)).to_event(1)


class Flat(nn.Module):
    """The improper prior p(z) = 1, which cannot be sampled.

    Args:
        latent: number of latent dimensions.

    Raises:
        InputError: if `latent` is not a whole number of at least 1; and if a program draws z from the prior.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = require_whole(latent, "latent")

    def forward(self, context: Tensor | None = None) -> dist.TorchDistribution:
        """Return p(z) with batch shape () and event shape (latent,); `context` is not used."""
        return _Constant(self.latent)


class _Constant(dist.TorchDistribution):
    """The density 1 everywhere. It scores values, but it cannot be sampled."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, latent: int, batch_shape: torch.Size = torch.Size()) -> None:  # noqa: B008
        super().__init__(batch_shape, torch.Size([latent]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Constant:
        return _Constant(self.event_shape[0], torch.Size(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return value.new_zeros(torch.broadcast_shapes(value.shape[:-1], self.batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        raise InputError(
            "A flat prior cannot be sampled, so an autoencoder has no samples. Fit a prior to its codes with "
            "pvae.fit_prior, train it with prior='standard', or use pvae.VAE, which learns to generate."
        )
