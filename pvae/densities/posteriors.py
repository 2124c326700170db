"""Posteriors q(z given x): densities over the latent, in the context of the encoder's features."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.networks import initialise

__all__ = ["DiagonalGaussian", "FullGaussian"]


class DiagonalGaussian(nn.Module):
    """The posterior q(z given x) = Normal(loc(h), exp(log_scale(h))), independent in each latent dimension.

    Args:
        in_features: size of the encoder's output h.
        latent: number of latent dimensions.
        initialisation: a name of `pvae.networks.INITIALISATIONS`, for both linear heads.

    Raises:
        InputError: for an unknown name, or if `latent` is not a whole number of at least 1.
    Source: Kingma & Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114; the scale as exp as in Burda,
    Grosse & Salakhutdinov, Importance Weighted Autoencoders, arXiv:1509.00519.

    Example:
        >>> import pvae, torch
        >>> q = pvae.DiagonalGaussian(8, latent=2)(torch.zeros(5, 8))  # the features of the encoder for 5 data
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([2]))
    """

    def __init__(self, in_features: int, latent: int, *, initialisation: str = "glorot") -> None:
        super().__init__()
        self.in_features, self.latent = in_features, require_whole(latent, "latent")
        self.loc = nn.Linear(in_features, latent)
        self.log_scale = nn.Linear(in_features, latent)
        initialise(self, initialisation)

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return q(z given x) for features (..., in_features): batch shape (...), event shape (latent,)."""
        return dist.Normal(self.loc(context), self.log_scale(context).exp()).to_event(1)


class FullGaussian(nn.Module):
    """The posterior q(z given x) = Normal(loc(h), L(h) L(h)'), where L = diag(scale(h)) (I + A(h)).

    A is strictly lower triangular. It starts at 0, so the posterior starts as the diagonal Gaussian of the same seed.
    Use it where latent dimensions are correlated given x.

    Args:
        in_features: size of the encoder's output h.
        latent: number of latent dimensions; the head of A has latent (latent - 1) / 2 outputs.
        initialisation: a name of `pvae.networks.INITIALISATIONS`, for the heads of location and scale.

    Raises:
        InputError: for an unknown name, or if `latent` is not a whole number of at least 1.
    Source: Kingma & Welling, An Introduction to Variational Autoencoders, arXiv:1906.02691, section 2.5.1.

    Example:
        >>> import pvae, torch
        >>> q = pvae.FullGaussian(8, latent=3)(torch.zeros(5, 8))
        >>> q.covariance_matrix.shape
        torch.Size([5, 3, 3])
    """

    places: Tensor

    def __init__(self, in_features: int, latent: int, *, initialisation: str = "glorot") -> None:
        super().__init__()
        self.in_features, self.latent = in_features, require_whole(latent, "latent")
        self.loc = nn.Linear(in_features, latent)
        self.log_scale = nn.Linear(in_features, latent)
        initialise(self, initialisation)
        entries = latent * (latent - 1) // 2
        self.below = nn.Linear(in_features, entries) if entries else None
        if self.below is not None:
            nn.init.zeros_(self.below.weight)
            nn.init.zeros_(self.below.bias)
        # index of each entry of A among the outputs of the linear layer, or one after the last for entries that are 0
        places = torch.full((latent, latent), entries)
        places[tuple(torch.tril_indices(latent, latent, -1))] = torch.arange(entries)
        self.register_buffer("places", places.flatten(), persistent=False)

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return q(z given x) for features (..., in_features): batch shape (...), event shape (latent,)."""
        scale = self.log_scale(context).exp()
        return dist.MultivariateNormal(
            self.loc(context), scale_tril=scale.unsqueeze(-1) * self._unit_triangular(context, scale)
        )

    def _unit_triangular(self, context: Tensor, like: Tensor) -> Tensor:
        """Return I + A, shape (..., latent, latent), in the dtype and on the device of `like`."""
        identity = torch.eye(self.latent, dtype=like.dtype, device=like.device)
        if self.below is None:
            return identity
        entries = nn.functional.pad(self.below(context), (0, 1))
        triangular = entries.gather(-1, self.places.expand(*entries.shape[:-1], -1))
        return identity + triangular.unflatten(-1, (self.latent, self.latent))
