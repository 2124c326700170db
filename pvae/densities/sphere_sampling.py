"""Draws of the von Mises-Fisher distribution, with exact gradients by its two parameters."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.densities.bessel import bessel_ratio
from pvae.errors import InputError

__all__ = ["angle_rates", "draw_angles", "draw_directions", "draw_from_sphere"]

_NODES = 48  # of the quadrature
_FAR = 45.0  # nats below the density at the draw, where the integrand is 0 to rounding
_HALVINGS = 32


def draw_directions(zeros: Tensor) -> Tensor:
    """Return draws of the uniform distribution on the unit sphere, shape (..., dimensions), like `zeros`."""
    noise = torch.randn_like(zeros, dtype=torch.float64)
    return (noise / noise.norm(dim=-1, keepdim=True)).to(zeros.dtype)


def draw_angles(concentration: Tensor, dimensions: int) -> Tensor:
    """Return draws of the angle between z and the mean direction, by rejection, without gradient.

    With e from Beta((dimensions - 1) / 2, (dimensions - 1) / 2), the proposal w = cos(angle) of the source is
    (1 - (1 + b) e) / (1 - (1 - b) e), so tan(angle / 2)^2 = b e / (1 - e). Half-angles are accurate for small angles.

    Args:
        concentration: shape (...), float64.
        dimensions: the number of dimensions of the space around the sphere, at least 2.

    Returns:
        Shape (...), in radians, between 0 and pi; NaN if the concentration is NaN.
    Source: Wood, Simulation of the von Mises Fisher distribution, Communications in Statistics 23, 1994.
    """
    flat = concentration.detach().reshape(-1)
    angles = torch.empty_like(flat)
    pending = torch.arange(len(flat), device=flat.device)
    while len(pending):
        proposed, accepted = _propose(flat[pending], dimensions)
        angles[pending[accepted]] = proposed[accepted]
        pending = pending[~accepted]
    return angles.reshape(concentration.shape)


def _propose(concentration: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """Return one proposed angle for each concentration, and whether it is accepted, both of shape (pending,)."""
    free = dimensions - 1
    b = free / (2 * concentration + torch.hypot(2 * concentration, torch.full_like(concentration, free)))
    gamma = torch.distributions.Gamma(torch.full_like(concentration, free / 2), 1.0, validate_args=False)
    angle = 2 * torch.atan((b * gamma.sample() / gamma.sample()).sqrt())
    x, from_x = (1 - b) / (1 + b), 2 * b / (1 + b)  # from_x is 1 - x
    from_cosine = 2 * (angle / 2).sin().square()  # 1 - cos(angle)
    log_ratio = (from_x + x * from_cosine).log() - (4 * b / (1 + b).square()).log()
    log_accept = concentration * (from_x - from_cosine) + free * log_ratio
    # A comparison with NaN is False, so that it ends the loop.
    return angle, ~(log_accept < torch.rand_like(angle).log())


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes in (0, 1) and weights of the Gauss-Legendre rule."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return (nodes + 1) / 2, weights / 2


def _log_ratio(at: Tensor, angle: Tensor, concentration: Tensor, dimensions: int) -> Tensor:
    """Return the log-density of the angle `at` minus the log-density of the angle `angle`; the arguments broadcast."""
    cosines = 2 * ((angle + at) / 2).sin() * ((angle - at) / 2).sin()
    return (dimensions - 2) * (at.sin() / angle.sin()).clamp_min(1e-300).log() + concentration * cosines


def _far_end(angle: Tensor, concentration: Tensor, dimensions: int) -> Tensor:
    """Return an angle beyond which the density is negligible, on the side of `angle` away from the mode."""
    cosine = 2 * concentration
    mode_cosine = cosine / (dimensions - 2 + torch.hypot(cosine, torch.full_like(cosine, dimensions - 2))).clamp_min(
        1e-300
    )
    far = torch.where(angle.cos() > mode_cosine, torch.zeros_like(angle), torch.full_like(angle, torch.pi))
    near = angle
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        is_near = _log_ratio(middle, angle, concentration, dimensions) > -_FAR
        near, far = torch.where(is_near, middle, near), torch.where(is_near, far, middle)
    return far


@torch.no_grad()
def angle_rates(angle: Tensor, concentration: Tensor, dimensions: int) -> Tensor:
    """Return the derivative of a drawn angle by the concentration, at a fixed value of its distribution function.

    By the implicit function theorem it is -(dF / d concentration) / p, for the distribution function F and the density
    p of the angle. The derivative of F is an integral of (cos s - E cos) p(s), from the angle to the end of its side.
    The integrand is smooth there and decreases from the angle on, and a Gauss-Legendre rule gives it to 1e-10.

    Args:
        angle: draws, shape (...), float64, in radians.
        concentration: shape (...), float64.
        dimensions: the number of dimensions of the space around the sphere, at least 2.

    Returns:
        Shape (...), in radians per unit of the concentration.
    Source: Figurnov, Mohamed & Mnih, Implicit Reparameterization Gradients, arXiv:1805.08498, equation 5.
    """
    angle = angle.clamp(1e-150, torch.pi - 1e-15)
    nodes, weights = (torch.as_tensor(values, device=angle.device) for values in _quadrature())
    length = (_far_end(angle, concentration, dimensions) - angle).unsqueeze(-1)
    start, wide = angle.unsqueeze(-1), concentration.unsqueeze(-1)
    at = start + length * nodes
    from_mean = (1 - bessel_ratio(wide, dimensions)) - 2 * (at / 2).sin().square()
    density = _log_ratio(at, start, wide, dimensions).exp()
    return (length * weights * from_mean * density).sum(-1)


class _Rotate(torch.autograd.Function):
    """z = cos(angle) loc + sin(angle) tangent.

    Its gradient by loc is the gradient of the smallest rotation of loc and z. A rotation of loc to loc + d rotates the
    distribution of z too. So the derivative of z is cos(angle) d - sin(angle) (tangent'd) loc, which is bounded. The
    derivative of a projection of noise on the tangent space is another one with the same mean; in 3 dimensions it has
    an infinite variance.
    """

    @staticmethod
    def forward(ctx: Any, loc: Tensor, concentration: Tensor, angle: Tensor, tangent: Tensor, rate: Tensor) -> Tensor:
        """Return z, shape (..., dimensions), for angles and their rates of shape (..., 1)."""
        ctx.save_for_backward(loc, angle, tangent, rate)
        z = angle.cos() * loc + angle.sin() * tangent
        return z / z.norm(dim=-1, keepdim=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by loc, in its tangent space, and by the concentration, shape (...).

        Raises:
            InputError: if the gradient is to be differentiated again, because the rates are constants here.
        """
        if torch.is_grad_enabled():
            raise InputError(
                "Draws of the von Mises-Fisher distribution have only first derivatives; got a backward pass with "
                "create_graph=True. Use an objective or a guide without second derivatives."
            )
        (gradient,) = gradients
        loc, angle, tangent, rate = ctx.saved_tensors
        along_loc = (gradient * loc).sum(-1, keepdim=True)
        along_tangent = (gradient * tangent).sum(-1, keepdim=True)
        by_loc = angle.cos() * (gradient - along_loc * loc) - angle.sin() * along_loc * tangent
        by_concentration = rate * (angle.cos() * along_tangent - angle.sin() * along_loc)
        return by_loc, by_concentration.squeeze(-1), None, None, None


def draw_from_sphere(loc: Tensor, concentration: Tensor) -> Tensor:
    """Return reparameterised draws of the von Mises-Fisher distribution, computed in float64.

    Second derivatives raise an error in the backward pass.

    Args:
        loc: mean directions of length 1, shape (..., dimensions).
        concentration: shape (...).

    Returns:
        Shape (..., dimensions), in the dtype of `loc`.
    """
    mean, wide = loc.double(), concentration.double()
    dimensions = loc.shape[-1]
    with torch.no_grad():
        mean = mean / mean.norm(dim=-1, keepdim=True)
        angle = draw_angles(wide, dimensions)
        tangent = torch.randn_like(mean)
        for _ in range(2):  # a second projection removes the rounding of the first one
            tangent = tangent - (tangent * mean).sum(-1, keepdim=True) * mean
            tangent = tangent / tangent.norm(dim=-1, keepdim=True)
    needs_rate = torch.is_grad_enabled() and concentration.requires_grad
    rate = angle_rates(angle, wide, dimensions) if needs_rate else torch.zeros_like(angle)
    z: Tensor = _Rotate.apply(loc.double(), wide, angle.unsqueeze(-1), tangent, rate.unsqueeze(-1))
    return z.to(loc.dtype)
