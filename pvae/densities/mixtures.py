"""Mixtures of diagonal Gaussians as a learned prior and as a posterior with reparameterised draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.networks import initialise

__all__ = ["DiagonalMixture", "MixturePosterior", "MixturePrior"]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# share of the variance of a new mixture prior that is between its components
_BETWEEN = 0.25


class DiagonalMixture(dist.TorchDistribution):
    """A mixture of Gaussians with diagonal covariances: batch shape (...), event shape (latent,).

    Draws are reparameterised exactly: z solves F(z) = u, where F_d is the distribution function of z_d given the
    dimensions before it and u is uniform, so dz = -(dF/dz)^-1 dF at fixed u. Components may be equal, one latent
    dimension is enough, and any sample shape is supported; `pyro.distributions.MixtureOfDiagNormals` does not support
    one dimension or other sample shapes.

    Args:
        logits: unnormalised log-weights, shape (..., components).
        loc: means, shape (..., components, latent).
        scale: standard deviations, shape (..., components, latent).
        validate_args: whether to check parameters and values; None for PyTorch's default.
    Sources: Graves, Stochastic Backpropagation through Mixture Density Distributions, arXiv:1607.05690; Figurnov,
    Mohamed & Mnih, Implicit Reparameterization Gradients, arXiv:1805.08498, section 4.
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.real_vector,
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        batch = torch.broadcast_shapes(logits.shape[:-1], loc.shape[:-2], scale.shape[:-2])
        self.logits = logits.expand(*batch, -1)
        self.loc = loc.expand(*batch, *loc.shape[-2:])
        self.scale = scale.expand(*batch, *scale.shape[-2:])
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: DiagonalMixture | None = None) -> DiagonalMixture:
        """Return the mixture with another batch shape, to which its own broadcasts."""
        new: DiagonalMixture = self._get_checked_instance(DiagonalMixture, _instance)
        new.logits = self.logits.expand(*batch_shape, -1)
        new.loc = self.loc.expand(*batch_shape, *self.loc.shape[-2:])
        new.scale = self.scale.expand(*batch_shape, *self.scale.shape[-2:])
        super(DiagonalMixture, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The mean, shape (..., latent)."""
        return (self.logits.softmax(-1).unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        """The variance of each dimension, shape (..., latent)."""
        second = self.scale.square() + (self.loc - self.mean.unsqueeze(-2)).square()
        return (self.logits.softmax(-1).unsqueeze(-1) * second).sum(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density, shape (...), of values of shape (..., latent), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        by_component = self._log_components(self._noise(value)).sum(-1)
        return torch.logsumexp(self.logits.log_softmax(-1) + by_component, -1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return draws, shape sample_shape + (..., latent), with gradients for all parameters."""
        wide = self.expand((*sample_shape, *self.batch_shape))
        index = torch.distributions.Categorical(logits=wide.logits).sample()
        index = index[..., None, None].expand(*wide.batch_shape, 1, *self.event_shape)
        loc = wide.loc.gather(-2, index).squeeze(-2).detach()
        scale = wide.scale.gather(-2, index).squeeze(-2).detach()
        z = loc + scale * torch.randn_like(loc)
        needs_gradient = any(parameter.requires_grad for parameter in (self.logits, self.loc, self.scale))
        return self._attach_gradient(z) if needs_gradient and torch.is_grad_enabled() else z

    def _noise(self, value: Tensor) -> Tensor:
        """Return values standardised by each component, shape (..., components, latent)."""
        return (value.unsqueeze(-2) - self.loc) / self.scale

    def _log_components(self, noise: Tensor) -> Tensor:
        """Return the log-density of each component and dimension, shape (..., components, latent)."""
        return -0.5 * noise.square() - self.scale.log() - _HALF_LOG_2PI

    def _attach_gradient(self, z: Tensor) -> Tensor:
        """Return draws z, shape (..., latent), with the same values and with the gradient at fixed u."""
        noise = self._noise(z)
        log_density = self._log_components(noise)
        before = log_density.cumsum(-1) - log_density
        # probability of each component given the dimensions before, (..., components, latent)
        weights = (self.logits.unsqueeze(-1) + before).softmax(-2)
        below = torch.special.ndtr(noise)
        u = (weights * below).sum(-2)
        with torch.no_grad():
            # du_d / dz_j: from the weights for j < d, and the conditional density for j = d
            from_weights = torch.einsum("...kd,...kj->...dj", weights * (below - u.unsqueeze(-2)), -noise / self.scale)
            density = (weights * log_density.exp()).sum(-2)
            jacobian = from_weights.tril(-1) + torch.diag_embed(density)
        # 0, with the gradient of u at fixed z
        change = (u - u.detach()).unsqueeze(-1)
        return z - torch.linalg.solve_triangular(jacobian, change, upper=False).squeeze(-1)


class MixturePrior(nn.Module):
    """A prior p(z) that is a mixture of diagonal Gaussians, learned with theta.

    It starts with equal weights, means drawn from N(0, 1/4) and variances of 3/4. The components then differ, and a
    draw has, in expectation over the means, the mean 0 and the variance 1 of the standard normal prior.

    Args:
        latent: number of latent dimensions.
        components: number of Gaussians.

    Raises:
        InputError: if either is not a whole number of at least 1.
    Source: as a prior of a variational autoencoder, the baseline of Tomczak & Welling, VAE with a VampPrior,
    arXiv:1705.07120, section 4.

    Example:
        >>> import pvae, torch
        >>> p = pvae.MixturePrior(2, components=10)()
        >>> p.sample((3,)).shape
        torch.Size([3, 2])
    """

    def __init__(self, latent: int, components: int = 10) -> None:
        super().__init__()
        self.latent = require_whole(latent, "latent")
        self.components = require_whole(components, "components")
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(_BETWEEN**0.5 * torch.randn(components, latent))
        self.log_scale = nn.Parameter(torch.full((components, latent), 0.5 * math.log(1 - _BETWEEN)))

    def forward(self, context: Tensor | None = None) -> DiagonalMixture:
        """Return p(z), with batch shape () and event shape (latent,); `context` is not used."""
        return DiagonalMixture(self.logits, self.loc, self.log_scale.exp())


class MixturePosterior(nn.Module):
    """The posterior q(z given x) = sum_k w_k(h) Normal(loc_k(h), scale_k(h)), with reparameterised draws.

    The weights start equal. One draw per datum comes from one component, so the gradient of the entropy of q, which
    separates components, is noisy with one particle; use several.

    Args:
        in_features: size of the encoder's output h.
        latent: number of latent dimensions.
        components: number of Gaussians.
        initialisation: a name of `pvae.networks.INITIALISATIONS`, for the linear layers of locations and scales.

    Raises:
        InputError: for an unknown name, or if `latent` or `components` is not a whole number of at least 1.
    Source: Graves, arXiv:1607.05690; Morningstar et al., Automatic Differentiation Variational Inference with
    Mixtures, arXiv:2003.01687.

    Example:
        >>> import pvae, torch
        >>> q = pvae.MixturePosterior(8, latent=2, components=3)(torch.zeros(5, 8))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    def __init__(self, in_features: int, latent: int, components: int = 3, *, initialisation: str = "glorot") -> None:
        super().__init__()
        self.in_features, self.latent = in_features, require_whole(latent, "latent")
        self.components = require_whole(components, "components")
        self.loc = nn.Linear(in_features, components * latent)
        self.log_scale = nn.Linear(in_features, components * latent)
        self.logits = nn.Linear(in_features, components)
        initialise(self, initialisation)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, context: Tensor) -> DiagonalMixture:
        """Return q(z given x) for features (..., in_features): batch shape (...), event shape (latent,)."""
        shape = (self.components, self.latent)
        loc, log_scale = (layer(context).unflatten(-1, shape) for layer in (self.loc, self.log_scale))
        return DiagonalMixture(self.logits(context), loc, log_scale.exp())
