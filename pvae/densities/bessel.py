"""The normaliser of the von Mises-Fisher density: modified Bessel functions of any order, without overflow."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import torch
from torch import Tensor

__all__ = ["bessel_ratio", "log_normaliser"]

# For orders from this one, the expansion in 1 / order is exact to 1e-13; a stable recurrence leads to lower orders.
_LEAST_ORDER = 20.0
_TERMS = 12


@functools.cache
def _debye_polynomials() -> tuple[tuple[float, ...], ...]:
    """Return the coefficients of the polynomials u_1, u_2, ... of the uniform expansion, lowest power first.

    Source: NIST Digital Library of Mathematical Functions, equation 10.41.9.
    """
    current = [Fraction(1)]
    found = []
    for _ in range(_TERMS):
        following = [Fraction(0)] * (len(current) + 3)
        for power, coefficient in enumerate(current):
            following[power + 1] += coefficient * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            following[power + 3] -= coefficient * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        current = following
        found.append(tuple(map(float, current)))
    return tuple(found)


@functools.cache
def _correction_coefficients(order: float) -> tuple[float, ...]:
    """Return the coefficients of the sum of u_k(t) / order^k for k = 1, 2, ..., lowest power of t first."""
    polynomials = _debye_polynomials()
    total = [0.0] * len(polynomials[-1])
    for number, polynomial in enumerate(polynomials, start=1):
        for power, coefficient in enumerate(polynomial):
            total[power] += coefficient / order**number
    return tuple(total)


def _correction(t: Tensor, order: float) -> Tensor:
    """Return the sum of u_k(t) / order^k for k = 1, 2, ..., in the shape of `t`."""
    coefficients = torch.tensor(_correction_coefficients(order), dtype=t.dtype, device=t.device)
    powers = torch.arange(len(coefficients), device=t.device)
    return (t.unsqueeze(-1) ** powers * coefficients).sum(-1)


def _expanded(concentration: Tensor, order: float) -> Tensor:
    """Return the logarithm of 0F1 minus the concentration for a large order, by the uniform expansion.

    Source: NIST Digital Library of Mathematical Functions, equation 10.41.3.
    """
    ratio = concentration / order
    root = torch.hypot(torch.ones_like(ratio), ratio)
    # root - 1 - ratio, without the difference of large numbers
    leading = 1 / (root + ratio) - 1 - torch.log1p((root - 1) / 2)
    at_zero = _correction(torch.ones_like(ratio), order)
    corrected = torch.log1p(_correction(1 / root, order)) - torch.log1p(at_zero)
    return order * leading - root.log() / 2 + corrected


def _orders(dimensions: int) -> tuple[float, int]:
    """Return the order of the Bessel function for a sphere, and the number of steps to a large order."""
    order = dimensions / 2 - 1
    return order, max(0, math.ceil(_LEAST_ORDER - order))


def _walk(concentration: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """Return the logarithm of 0F1 minus the concentration, and I_(order + 1) / I_order, both float64."""
    order, steps = _orders(dimensions)
    top = order + steps
    scaled = _expanded(concentration, top)
    following = _expanded(concentration, top + 1)
    ratio = concentration / (2 * (top + 1)) * (following - scaled).exp()
    for step in range(steps):
        below = top - step  # the order of the denominator of the next ratio is one less
        growth = concentration * ratio / (2 * below)
        scaled = scaled + growth.log1p()
        ratio = concentration / (2 * below) / (1 + growth)
    return scaled, ratio


def log_normaliser(concentration: Tensor, dimensions: int) -> Tensor:
    """Return log E exp(concentration * (z_1 - 1)) for z uniform on the unit sphere, in nats.

    It is the logarithm of Gamma(v + 1) (2 / concentration)^v I_v(concentration), minus the concentration, with the
    order v = dimensions / 2 - 1. It does not overflow or underflow, and is differentiable, also at 0.

    Args:
        concentration: the concentration, at least 0, shape (...). It is converted to float64.
        dimensions: the number of dimensions of the space around the sphere, at least 2.

    Returns:
        Shape (...), float64; 0 for a concentration of 0, and negative otherwise.
    Source: NIST Digital Library of Mathematical Functions, equations 10.29.1 and 10.41.3.
    """
    return _walk(concentration.double(), dimensions)[0]


def bessel_ratio(concentration: Tensor, dimensions: int) -> Tensor:
    """Return I_(v + 1)(concentration) / I_v(concentration), with v = dimensions / 2 - 1: the mean of mu'z.

    Args:
        concentration: the concentration, at least 0, shape (...). It is converted to float64.
        dimensions: the number of dimensions of the space around the sphere, at least 2.

    Returns:
        Shape (...), float64, between 0 and 1.
    Source: Amos, Computation of Modified Bessel Functions and Their Ratios, Mathematics of Computation 28, 1974.
    """
    return _walk(concentration.double(), dimensions)[1]
