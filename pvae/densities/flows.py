"""Normalising flows as a learned prior and as posteriors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints
from torch import Size, Tensor, nn
from torch.distributions import AffineTransform, Transform

from pvae.checks import require_whole
from pvae.densities.posteriors import DiagonalGaussian
from pvae.densities.transforms import Householder, compose, stack, zuko
from pvae.names import require_known
from pvae.networks import initialise

__all__ = ["FlowDistribution", "FlowPosterior", "FlowPrior", "HouseholderPosterior"]

# name -> (kind of map, whether the maps are from noise to z, so that drawing is fast, or from z to noise)
_PRIORS = {"coupling": ("coupling", False), "maf": ("affine", False), "spline": ("spline", False)}
_POSTERIORS = {
    "coupling": ("coupling", True),
    "iaf": ("affine", True),
    "maf": ("affine", False),
    "planar": ("planar", True),
    "spline": ("spline", True),
}
_PAIRS = 32


class FlowDistribution(ZukoToPyro):
    """A flow as a Pyro distribution, with the batch shape of the base and event shape (latent,).

    The log-density of its own last draw is known from drawing; other values are scored through the inverse.

    Args:
        flow: a ``zuko.distributions.NormalizingFlow``.
    """

    dist: Any
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector

    @classmethod
    def of(cls, to_noise: Transform, zeros: Tensor) -> FlowDistribution:
        """Return the distribution of z for which to_noise(z) is N(0, I).

        Args:
            to_noise: the map from z to noise.
            zeros: zeros of shape (..., latent), which set batch shape, dtype and device.
        """
        base = dist.Normal(zeros, zeros + 1).to_event(1)
        return cls(zuko().distributions.NormalizingFlow(to_noise, base))

    def __call__(self, shape: Sequence[int] = ()) -> Tensor:
        """Return draws of shape `shape` + batch_shape + (latent,)."""
        if torch.is_grad_enabled():
            return super().__call__(Size(shape))
        # ZukoToPyro caches the log-density of a draw; one without gradient must not be used later with gradients on
        return self.dist.rsample(Size(shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Return draws of shape sample_shape + batch_shape + (latent,)."""
        return self(sample_shape)

    @property
    def event_shape(self) -> Size:
        """The shape of one z; zuko would include the batch dimensions of an affine map."""
        return self.dist.base.event_shape

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> FlowDistribution:
        """Return the flow with another batch shape, to which its own broadcasts."""
        return FlowDistribution(self.dist.expand(Size(batch_shape)))

    @property
    def mean(self) -> Tensor:
        """The mean over 64 draws from fixed noise and its negative, shape (..., latent); exact for an affine map."""
        like = self.dist.base.base_dist.loc
        # NumPy draws the noise, so that a traced step has it as a constant and no generator of PyTorch advances
        noise = torch.tensor(np.random.default_rng(0).standard_normal((_PAIRS, like.shape[-1])))
        to_z = self.dist.transform.inv
        draws = (to_z((sign * row).to(like).expand(like.shape)) for row in noise for sign in (1, -1))
        return sum(draws, torch.zeros_like(like)) / (2 * _PAIRS)


def _kind(table: dict[str, tuple[str, bool]], role: str, kind: str) -> tuple[str, bool]:
    require_known(f"kind of flow {role}", kind, table)
    return table[kind]


class FlowPrior(nn.Module):
    """A prior p(z) that is a normalising flow, learned with theta. It starts as N(0, I) unless ``identity=False``.

    The maps lead from z to noise, so their networks run once to score z. To draw z they run once per dimension for
    ``"maf"``, which is the Gaussian autoregressive prior, and twice for the others.

    Args:
        latent: number of latent dimensions.
        kind: ``"maf"`` (affine, autoregressive), ``"coupling"`` (affine, half given the other half) or ``"spline"``
            (rational-quadratic on [-5, 5], half given the other half).
        transforms: number of maps; the order of dimensions is reversed between them.
        hidden: sizes of the hidden layers of each map's network.
        identity: whether all maps start as the identity.
        bins: number of bins of a spline.
        activation: a name of `pvae.networks.ACTIVATIONS`.

    Raises:
        InputError: for an unknown name, a number that is not positive, or one latent dimension if a map needs two.
    Sources: Papamakarios, Pavlakou & Murray, Masked Autoregressive Flow, arXiv:1705.07057; Dinh, Sohl-Dickstein &
    Bengio, Density Estimation using Real NVP, arXiv:1605.08803; Durkan et al., Neural Spline Flows, arXiv:1906.04032;
    as a prior, Chen et al., Variational Lossy Autoencoder, arXiv:1611.02731.

    Example:
        >>> import pvae, torch
        >>> model = pvae.VAE(4, latent=2, hidden=8, prior=pvae.FlowPrior(2, "coupling"))
        >>> model.sample(3).shape
        torch.Size([3, 4])
    """

    zeros: Tensor

    def __init__(
        self,
        latent: int,
        kind: str = "maf",
        *,
        transforms: int = 3,
        hidden: int | Sequence[int] = (64, 64),
        identity: bool = True,
        bins: int = 8,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.latent, self.kind = require_whole(latent, "latent"), kind
        maps, _ = _kind(_PRIORS, "prior", kind)
        self.maps = stack(
            maps,
            latent,
            0,
            transforms=transforms,
            hidden=hidden,
            bins=bins,
            activation=activation,
            identity=identity,
        )
        self.register_buffer("zeros", torch.zeros(latent), persistent=False)

    def forward(self, context: Tensor | None = None) -> FlowDistribution:
        """Return p(z), with batch shape () and event shape (latent,); `context` is not used."""
        return FlowDistribution.of(self.maps(None), self.zeros)

    def __repr__(self) -> str:
        # the repr of zuko draws random numbers, which would advance the caller's generator
        return f"FlowPrior(latent={self.latent}, kind={self.kind!r})"


class FlowPosterior(nn.Module):
    """The posterior q(z given x) of z = loc(h) + scale(h) T(noise; h), where T is a flow with the context h.

    It starts as the diagonal Gaussian unless ``identity=False``. T maps standardised noise, so that the range [-5, 5]
    of a spline covers the posterior, however narrow the posterior is.

    Args:
        in_features: size of the encoder's output h.
        latent: number of latent dimensions.
        kind: ``"coupling"`` (affine, half given the other half: draws in one pass of the networks, scores other values
            in two), ``"spline"`` (the same with rational-quadratic maps), ``"iaf"`` (affine, autoregressive: draws in
            one pass, scores other values in one pass per dimension), ``"maf"`` (the reverse: scores in one pass, draws
            in one pass per dimension) or ``"planar"``.
        transforms: number of maps; the order of dimensions is reversed between them.
        hidden: sizes of the hidden layers of each map's network; planar maps have no network.
        identity: whether all maps start as the identity.
        bins: number of bins of a spline.
        activation: a name of `pvae.networks.ACTIVATIONS`.
        context: number of features, linear in h, that the networks of the maps take in addition to z.
        initialisation: a name of `pvae.networks.INITIALISATIONS`, for the heads of location and scale.

    Raises:
        InputError: for an unknown name, a number that is not positive, or one latent dimension if a map needs two.
    Sources: Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, arXiv:1606.04934; Rezende
    & Mohamed, Variational Inference with Normalizing Flows, arXiv:1505.05770; and the sources of `FlowPrior`.

    Example:
        >>> import pvae, torch
        >>> q = pvae.FlowPosterior(8, latent=2, kind="iaf")(torch.zeros(5, 8))
        >>> z = q.rsample()
        >>> q.log_prob(z).shape
        torch.Size([5])
    """

    def __init__(
        self,
        in_features: int,
        latent: int,
        kind: str = "coupling",
        *,
        transforms: int = 3,
        hidden: int | Sequence[int] = (64, 64),
        identity: bool = True,
        bins: int = 8,
        activation: str = "relu",
        context: int = 32,
        initialisation: str = "glorot",
    ) -> None:
        super().__init__()
        maps, self._to_z = _kind(_POSTERIORS, "posterior", kind)
        self.in_features, self.latent, self.kind = in_features, latent, kind
        self.base = DiagonalGaussian(in_features, latent, initialisation=initialisation)
        self.context = nn.Linear(in_features, require_whole(context, "context"))
        self.maps = stack(
            maps,
            latent,
            context,
            transforms=transforms,
            hidden=hidden,
            bins=bins,
            activation=activation,
            identity=identity,
        )

    def forward(self, context: Tensor) -> FlowDistribution:
        """Return q(z given x) for features (..., in_features): batch shape (...), event shape (latent,)."""
        loc, scale = self.base.loc(context), self.base.log_scale(context).exp()
        maps = self.maps(self.context(context))
        standardise = AffineTransform(loc, scale, event_dim=1).inv
        return FlowDistribution.of(compose(standardise, maps.inv if self._to_z else maps), torch.zeros_like(loc))

    def __repr__(self) -> str:
        return f"FlowPosterior(in_features={self.in_features}, latent={self.latent}, kind={self.kind!r})"


class HouseholderPosterior(nn.Module):
    """The posterior q(z given x) of z = loc(h) + H(h) scale(h) noise, where H is a product of reflections.

    It is a Gaussian with covariance H diag(scale^2) H'. With latent - 1 reflections or more, every covariance can be
    reached. The determinant of H is 1 or -1, so the density needs no determinant.

    Args:
        in_features: size of the encoder's output h.
        latent: number of latent dimensions.
        reflections: number of reflections, at least 1.
        initialisation: a name of `pvae.networks.INITIALISATIONS`, for the heads of location and scale.

    Raises:
        InputError: for an unknown name, or a number that is not positive.
    Source: Tomczak & Welling, Improving Variational Auto-Encoders using Householder Flow, arXiv:1611.09630.

    Example:
        >>> import pvae, torch
        >>> q = pvae.HouseholderPosterior(8, latent=3, reflections=2)(torch.zeros(5, 8))
        >>> q.log_prob(q.rsample()).shape
        torch.Size([5])
    """

    def __init__(self, in_features: int, latent: int, reflections: int = 4, *, initialisation: str = "glorot") -> None:
        super().__init__()
        self.in_features, self.latent = in_features, require_whole(latent, "latent")
        self.reflections = require_whole(reflections, "reflections")
        self.loc = nn.Linear(in_features, latent)
        self.log_scale = nn.Linear(in_features, latent)
        initialise(self, initialisation)
        self.vectors = nn.Linear(in_features, reflections * latent)

    def forward(self, context: Tensor) -> FlowDistribution:
        """Return q(z given x) for features (..., in_features): batch shape (...), event shape (latent,)."""
        loc, scale = self.loc(context), self.log_scale(context).exp()
        rotate = Householder(self.vectors(context).unflatten(-1, (self.reflections, self.latent)))
        shift = AffineTransform(loc, torch.ones_like(loc), event_dim=1)
        stretch = AffineTransform(torch.zeros_like(loc), scale, event_dim=1)
        return FlowDistribution.of(compose(shift.inv, rotate.inv, stretch.inv), torch.zeros_like(loc))
