"""The prior and the posterior of a latent variable on the unit sphere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pvae.checks import require_number, require_whole
from pvae.densities.sphere_distributions import UniformSphere, VonMisesFisher
from pvae.networks import initialise

__all__ = ["SpherePrior", "VonMisesFisherPosterior"]


class SpherePrior(nn.Module):
    """The prior p(z) that is uniform on the unit sphere in a space of `latent` dimensions.

    Its density is with respect to the surface area. So it needs a posterior on the sphere too, such as
    `VonMisesFisherPosterior`.

    Args:
        latent: number of dimensions of the space, at least 2; the sphere has one less.

    Raises:
        InputError: if `latent` is not a whole number of at least 2.

    Example:
        >>> import pvae
        >>> p = pvae.densities.SpherePrior(3)()
        >>> float(p.sample((5,)).norm(dim=-1).sub(1).abs().max()) < 1e-6
        True
    """

    zeros: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = require_whole(latent, "latent", least=2)
        self.register_buffer("zeros", torch.zeros(latent), persistent=False)

    def forward(self, context: Tensor | None = None) -> UniformSphere:
        """Return p(z) with batch shape () and event shape (latent,); `context` is not used."""
        return UniformSphere(self.zeros)


class VonMisesFisherPosterior(nn.Module):
    """The posterior q(z given x) on the unit sphere, with a mean direction and a concentration for each datum.

    The mean direction is loc(h) divided by its length, and the concentration is least + softplus(raw_concentration(h)).
    It needs a prior on the sphere, such as `SpherePrior`.

    Args:
        in_features: size of the encoder's output h.
        latent: number of dimensions of the space around the sphere, at least 2.
        least: the smallest concentration, at least 0. With 0 the posterior can be the uniform prior; a training then
            often stays there, because the gradient is 0. The default of 1 is from the code of the source.
        initialisation: a name of `pvae.networks.INITIALISATIONS`, for both linear heads.

    Raises:
        InputError: for an unknown name, if `latent` is not a whole number of at least 2, or for a negative `least`.
    Source: Davidson et al., Hyperspherical Variational Auto-Encoders, arXiv:1804.00891, section 3.

    Example:
        >>> import pvae, torch
        >>> q = pvae.densities.VonMisesFisherPosterior(8, latent=3)(torch.ones(5, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([3]))
    """

    def __init__(self, in_features: int, latent: int, least: float = 1.0, *, initialisation: str = "glorot") -> None:
        super().__init__()
        self.in_features, self.latent = in_features, require_whole(latent, "latent", least=2)
        self.least = require_number(least, "least", least=0)
        self.loc = nn.Linear(in_features, latent)
        self.raw_concentration = nn.Linear(in_features, 1)
        initialise(self, initialisation)

    def forward(self, context: Tensor) -> VonMisesFisher:
        """Return q(z given x) for features (..., in_features): batch shape (...), event shape (latent,)."""
        concentration = self.least + nn.functional.softplus(self.raw_concentration(context)).squeeze(-1)
        return VonMisesFisher(_direction(self.loc(context)), concentration)


def _direction(vector: Tensor) -> Tensor:
    """Return vectors of length 1, shape (..., latent); the first axis for a vector of zeros, which has no direction."""
    length = vector.norm(dim=-1, keepdim=True)
    first = torch.zeros_like(vector)
    first[..., 0] = 1
    is_zero = length == 0
    safe = torch.where(is_zero, first, vector)
    return safe / safe.norm(dim=-1, keepdim=True)
