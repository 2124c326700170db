"""The bias of an importance-sampled log evidence, from the rise of the bound between fewer and more particles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pvae.evaluate.base import EvidenceBias

__all__ = ["bias_sizes", "evidence_bias"]

#: The smallest exponent b of a rise like K^-b that the margin assumes. With it, the remaining rise of the bound is 9
#: times its rise in the last tenfold increase of K.
_LEAST_EXPONENT = math.log10(10 / 9)


def bias_sizes(particles: int) -> tuple[int, ...]:
    """Return the numbers of particles of the smaller bounds that `evidence_bias` needs: K/10, and K/100 if K >= 100.

    Args:
        particles: K, the number of particles of the evidence; below 10 there is no estimate of the bias.
    """
    return tuple(size for size in (particles // 10, particles // 100) if size >= 1)


def evidence_bias(particles: int, evidence: Tensor, bounds: Sequence[Tensor]) -> EvidenceBias | None:
    """Return the bias of a log evidence by extrapolation of the bound in 1/K; None for fewer than 10 particles.

    If the weights have a finite variance, log p - L_K = chi2 / (2 K) + O(1 / K^2), so the rise from K/10 to K particles
    is 9 times the bias that is left. If the weights have heavier tails, the bound rises more slowly, like K^-b with
    b < 1. The rises from K/100 to K/10 and from K/10 to K show b, and the margin is the bias by K^-b minus the bias by
    1/K.

    Args:
        particles: K, the number of particles of the evidence.
        evidence: the bound at K, in nats, shape (data,).
        bounds: the bounds at `bias_sizes`, in nats, shape (data,) each.
    Source: Domke & Sheldon, Importance Weighting and Variational Inference, NeurIPS 2018, section 3 (the 1/K law).
    """
    sizes = bias_sizes(particles)
    if not sizes or not torch.isfinite(torch.stack([evidence, *bounds])).all():
        return None
    rise = evidence - bounds[0]
    bias = EvidenceBias.mean_of(-rise * sizes[0] / (particles - sizes[0]))
    return replace(bias, margin=_margin(particles, float(rise.mean()), bias, bounds))


def _margin(particles: int, rise: float, bias: EvidenceBias, bounds: Sequence[Tensor]) -> float:
    """Return the amount by which the bias may exceed the bias by 1/K, in nats.

    Args:
        particles: K, the number of particles of the evidence.
        rise: the mean rise from K/10 to K, in nats.
        bias: the bias by 1/K.
        bounds: the bounds at K/10 and, if K >= 100, at K/100, shape (data,) each.
    """
    if rise <= 0.0:
        return 0.0
    if len(bounds) < 2:  # the bound has no rise to compare with
        return rise
    exponent = _exponent(particles, rise, float((bounds[0] - bounds[1]).mean()))
    slower = rise / ((particles / bias_sizes(particles)[0]) ** exponent - 1.0)
    return max(0.0, slower + bias.value)


def _exponent(particles: int, rise: float, earlier_rise: float) -> float:
    """Return b of a bound that rises like K^-b, from 0.046 to 1.

    Args:
        particles: K.
        rise: the rise from K/10 to K, in nats, above 0.
        earlier_rise: the rise from K/100 to K/10, in nats.
    """
    tenth, hundredth = bias_sizes(particles)
    if earlier_rise <= rise:
        return _LEAST_EXPONENT
    # At b = 1 the two rises have this ratio; it is 1/10 if K is a multiple of 100.
    usual_ratio = (1 / tenth - 1 / particles) / (1 / hundredth - 1 / tenth)
    exponent = 1.0 - math.log(rise / earlier_rise / usual_ratio) / math.log(math.sqrt(particles / hundredth))
    return min(1.0, max(_LEAST_EXPONENT, exponent))
