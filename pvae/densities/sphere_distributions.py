"""Distributions on the unit sphere: uniform, and von Mises-Fisher."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import register_kl

from pvae.densities.bessel import bessel_ratio, log_normaliser
from pvae.densities.sphere_sampling import draw_directions, draw_from_sphere
from pvae.errors import InputError

__all__ = ["UniformSphere", "VonMisesFisher", "log_area"]

_TOLERANCE = 1e-3  # tolerance of the length of a value, which may be the result of a few operations in float32


def log_area(dimensions: int) -> float:
    """Return the logarithm of the surface area of the unit sphere in a space of `dimensions` dimensions."""
    return math.log(2) + dimensions / 2 * math.log(math.pi) - math.lgamma(dimensions / 2)


def _on_sphere(value: Tensor, log_density: Tensor) -> Tensor:
    """Return the log-density of values on the sphere, and -inf for other values."""
    is_on = (value.detach().norm(dim=-1) - 1).abs() < _TOLERANCE
    return torch.where(is_on, log_density, torch.full_like(log_density, -torch.inf))


def _require_dimensions(tensor: Tensor, name: str) -> int:
    if tensor.dim() < 1 or tensor.shape[-1] < 2:
        raise InputError(
            f"A sphere needs a space of at least 2 dimensions; got {name} of shape {tuple(tensor.shape)}. Give the "
            "last axis at least 2 entries."
        )
    return int(tensor.shape[-1])


class UniformSphere(TorchDistribution):
    """The uniform distribution on the unit sphere. Its density is with respect to the surface area.

    Args:
        zeros: a tensor of zeros of shape (..., dimensions), with at least 2 dimensions. It gives the batch shape (...),
            the event shape, the dtype and the device.
        validate_args: whether to check values; None for PyTorch's default.

    Raises:
        InputError: for fewer than 2 dimensions.

    Example:
        >>> import torch
        >>> from pvae.densities import UniformSphere
        >>> p = UniformSphere(torch.zeros(3))
        >>> round(float(p.log_prob(p.sample()).exp() * 4 * torch.pi), 4)
        1.0
    """

    arg_constraints = {}  # noqa: RUF012
    support = constraints.sphere
    has_rsample = True

    def __init__(self, zeros: Tensor, *, validate_args: bool | None = None) -> None:
        self.dimensions = _require_dimensions(zeros, "zeros")
        self.zeros = zeros
        super().__init__(zeros.shape[:-1], zeros.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the distribution with a larger batch shape."""
        zeros = self.zeros.expand(*batch_shape, self.dimensions)
        return type(self)(zeros, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of each value, shape (...), in nats; -inf for values that are not on the sphere."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.zeros.shape)[:-1]
        return _on_sphere(value, self.zeros.new_full(shape, -log_area(self.dimensions)))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, shape sample_shape + (..., dimensions); they do not depend on parameters."""
        return draw_directions(self.zeros.expand(self._extended_shape(torch.Size(sample_shape))))

    @property
    def mean(self) -> Tensor:
        """The mean, which is the centre of the sphere, shape (..., dimensions)."""
        return self.zeros

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, 1 / dimensions, shape (..., dimensions)."""
        return torch.full_like(self.zeros, 1 / self.dimensions)

    def entropy(self) -> Tensor:
        """Return the logarithm of the surface area, shape (...), in nats."""
        return self.zeros.new_full(self.batch_shape, log_area(self.dimensions))


class VonMisesFisher(TorchDistribution):
    """The density proportional to exp(concentration * loc'z) on the unit sphere, with respect to the surface area.

    Draws are reparameterised: their gradients by both parameters are exact for the draws of the rejection sampler, by
    implicit differentiation. The normaliser and the gradients are computed in float64. Second derivatives of draws
    raise an error.

    Args:
        loc: mean directions of length 1, shape (..., dimensions), with at least 2 dimensions.
        concentration: at least 0, shape (...), which broadcasts with `loc`; 0 is the uniform distribution.
        validate_args: whether to check parameters and values; None for PyTorch's default.

    Raises:
        InputError: for fewer than 2 dimensions.
    Source: Davidson et al., Hyperspherical Variational Auto-Encoders, arXiv:1804.00891, section 3 and appendix A.

    Example:
        >>> import torch
        >>> from pvae.densities import UniformSphere, VonMisesFisher
        >>> q = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(10.0))
        >>> q.mean
        tensor([0.0000, 0.0000, 0.9000])
        >>> torch.distributions.kl_divergence(q, UniformSphere(torch.zeros(3)))
        tensor(1.9957)
    """

    arg_constraints = {"loc": constraints.sphere, "concentration": constraints.nonnegative}  # noqa: RUF012
    support = constraints.sphere
    has_rsample = True

    def __init__(self, loc: Tensor, concentration: Tensor, *, validate_args: bool | None = None) -> None:
        self.dimensions = _require_dimensions(loc, "loc")
        shape = torch.broadcast_shapes(loc.shape[:-1], concentration.shape)
        self.loc, self.concentration = loc.expand(*shape, -1), concentration.expand(shape)
        super().__init__(shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the distribution with a larger batch shape, without copying its parameters."""
        loc, concentration = self.loc.expand(*batch_shape, -1), self.concentration.expand(batch_shape)
        return type(self)(loc, concentration, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of each value, shape (...), in nats; -inf for values that are not on the sphere."""
        if self._validate_args:
            self._validate_sample(value)
        # loc'z - 1 as a square, which is accurate if z is close to loc
        square = (value.double() - self.loc.double()).square().sum(-1)
        exponent = -self.concentration.double() * square / 2
        log_density = exponent - log_normaliser(self.concentration, self.dimensions) - log_area(self.dimensions)
        return _on_sphere(value, log_density.to(self.loc.dtype))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, shape sample_shape + (..., dimensions), with gradients by both parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return draw_from_sphere(self.loc.expand(shape), self.concentration.expand(shape[:-1]))

    @property
    def mean(self) -> Tensor:
        """The mean, shape (..., dimensions). It has the direction `loc` and a length below 1."""
        length = bessel_ratio(self.concentration, self.dimensions).unsqueeze(-1)
        return (length * self.loc.double()).to(self.loc.dtype)

    @property
    def mode(self) -> Tensor:
        """The mean direction, shape (..., dimensions)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, shape (..., dimensions)."""
        wide = self.concentration.double().clamp_min(1e-8).unsqueeze(-1)
        length = bessel_ratio(wide, self.dimensions)
        across = length / wide  # of a coordinate that is orthogonal to loc
        along = 1 - (self.dimensions - 1) * across - length.square()
        share = self.loc.double().square()
        return (across * (1 - share) + along * share).to(self.loc.dtype)

    def entropy(self) -> Tensor:
        """Return the differential entropy on the sphere, shape (...), in nats."""
        return log_area(self.dimensions) - _kl_to_uniform(self)


def _kl_to_uniform(q: VonMisesFisher) -> Tensor:
    wide = q.concentration.double()
    kl = wide * (bessel_ratio(wide, q.dimensions) - 1) - log_normaliser(wide, q.dimensions)
    return kl.to(q.loc.dtype)


def _require_same_sphere(q: VonMisesFisher, p: UniformSphere | VonMisesFisher) -> None:
    if q.dimensions != p.dimensions:
        raise InputError(
            f"A KL divergence needs two distributions on the same sphere; got {q.dimensions} and {p.dimensions} "
            "dimensions. Give both the same number."
        )


@register_kl(VonMisesFisher, UniformSphere)  # type: ignore[untyped-decorator]
def _kl_von_mises_fisher_uniform(q: VonMisesFisher, p: UniformSphere) -> Tensor:
    """Return KL(q to p), shape (...), in nats."""
    _require_same_sphere(q, p)
    return _kl_to_uniform(q).expand(torch.broadcast_shapes(q.batch_shape, p.batch_shape))


@register_kl(VonMisesFisher, VonMisesFisher)  # type: ignore[untyped-decorator]
def _kl_von_mises_fisher(q: VonMisesFisher, p: VonMisesFisher) -> Tensor:
    """Return KL(q to p), shape (...), in nats: KL(q to uniform) minus the mean of log p, up to the area."""
    _require_same_sphere(q, p)
    length = bessel_ratio(q.concentration, q.dimensions)
    apart = (q.loc.double() - p.loc.double()).square().sum(-1) / 2  # 1 - cos
    wide = p.concentration.double()
    mean_log_p = wide * (length * (1 - apart) - 1) - log_normaliser(wide, p.dimensions)
    return (_kl_to_uniform(q).double() - mean_log_p).to(q.loc.dtype)
