"""Posteriors q(z given x): densities over the latent, in the context of the encoder's features."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.networks import initialise

__all__ = ["DiagonalGaussian"]


class DiagonalGaussian(nn.Module):
    """The posterior q(z given x) = Normal(loc(h), exp(log_scale(h))), independent in each latent dimension.

    Args:
        in_features: size of the encoder's output h.
        latent: number of latent dimensions.
        initialisation: a name of `pvae.networks.INITIALISATIONS`, for both linear heads.
    Raises:
        InputError: for an unknown name, or if there is no latent dimension.
    Source: Kingma & Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114; the scale as exp as in Burda,
    Grosse & Salakhutdinov, Importance Weighted Autoencoders, arXiv:1509.00519.
    """

    def __init__(self, in_features: int, latent: int, *, initialisation: str = "glorot") -> None:
        super().__init__()
        if latent < 1:
            raise InputError(f"A posterior needs at least one latent dimension; got latent={latent}.")
        self.in_features, self.latent = in_features, latent
        self.loc = nn.Linear(in_features, latent)
        self.log_scale = nn.Linear(in_features, latent)
        initialise(self, initialisation)

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return q(z given x) for features (..., in_features): batch shape (...), event shape (latent,)."""
        return dist.Normal(self.loc(context), self.log_scale(context).exp()).to_event(1)
