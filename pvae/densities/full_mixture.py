"""A mixture of Gaussians with full covariances as a prior; with one component it is the full Gaussian."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.checks import require_whole

__all__ = ["FullMixturePrior"]

# share of the variance of a new prior of several components that is between its components
_BETWEEN = 0.25


class FullMixturePrior(nn.Module):
    """A prior p(z) that is a mixture of Gaussians with full covariances, learned with theta or set from a fit by EM.

    With one component it is N(0, I) at the start. With several it starts as `pvae.MixturePrior` does: equal weights,
    means drawn from N(0, 1/4) and variances of 3/4.

    Args:
        latent: number of latent dimensions.
        components: number of Gaussians.

    Raises:
        InputError: if either is not a whole number of at least 1.
    """

    def __init__(self, latent: int, components: int = 1) -> None:
        super().__init__()
        self.latent = require_whole(latent, "latent")
        self.components = require_whole(components, "components")
        between = _BETWEEN if components > 1 else 0.0
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(between**0.5 * torch.randn(components, latent))
        # the Cholesky factors of the covariances, with the logarithms of their diagonals
        self.factors = nn.Parameter(0.5 * math.log(1 - between) * torch.eye(latent).repeat(components, 1, 1))

    def forward(self, context: Tensor | None = None) -> dist.TorchDistribution:
        """Return p(z), with batch shape () and event shape (latent,); `context` is not used."""
        diagonal = torch.diag_embed(self.factors.diagonal(dim1=-2, dim2=-1).exp())
        factors = self.factors.tril(-1) + diagonal
        if self.components == 1:
            return dist.MultivariateNormal(self.loc[0], scale_tril=factors[0])
        components = dist.MultivariateNormal(self.loc, scale_tril=factors)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), components)

    @torch.no_grad()
    def set_parameters(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Set the parameters of the mixture.

        Args:
            weights: probabilities of the components, (components,).
            means: (components, latent).
            covariances: (components, latent, latent), positive definite.
        """
        self.logits.copy_(weights.clamp_min(1e-300).log())
        self.loc.copy_(means)
        factors = torch.linalg.cholesky(covariances.double())
        logarithms = torch.diag_embed(factors.diagonal(dim1=-2, dim2=-1).log())
        self.factors.copy_(factors.tril(-1) + logarithms)
