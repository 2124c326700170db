"""Bounds of several particles, per datum: the importance-weighted bound and the Rényi bound."""

from __future__ import annotations

import math
from typing import Any, Unpack

from torch import Tensor

from pvae.checks import require_number
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.weights import LogWeights, log_mean_exp

__all__ = ["IWAE", "Renyi", "checked_order"]


def checked_order(alpha: Any, *, finite: bool = False) -> float:
    """Return the order of a Rényi bound as a number.

    Args:
        alpha: the order.
        finite: whether infinity is an error.

    Raises:
        InputError: if alpha is not a number, or is infinite although it must be finite.
    """
    return float(require_number(alpha, "alpha", above=None if finite else -math.inf, infinite=not finite))


@named("iwae", "importance-weighted bound of several particles")
class IWAE(WeightsObjective):
    """The importance-weighted bound: E log (1/K) sum_k w_k, per datum.

    One particle gives the ELBO. In expectation, more particles never loosen the bound on log p(x). Guide sites that
    cannot be reparameterised get the score function with a leave-one-out baseline, which is VIMCO.

    Args:
        particles: K, draws of z per datum; the paper's settings are 5 and 50.
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 1``; in use, if a guide site cannot have the gradient in ``gradients``.

    Source: Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, arXiv:1509.00519, equation 8.

    Example:
        >>> import pvae, torch
        >>> weights = pvae.log_weights(pvae.VAE(4, latent=2, hidden=8), torch.eye(4), particles=50)
        >>> iwae = pvae.IWAE(particles=50).surrogate(weights)
        >>> bool((iwae >= weights.log_w.mean(0)).all())  # never below the ELBO of the same draws
        True
    """

    pathwise = False

    def __init__(self, particles: int = 5, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        self.averages = particles == 1

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the logarithm of the mean weight, shape (batch,), in nats."""
        return log_mean_exp(weights.log_w)


@named("renyi", "Rényi bound of order alpha")
class Renyi(WeightsObjective):
    """The variational Rényi bound of order alpha: (E log (1/K) sum_k w_k^(1 - alpha)) / (1 - alpha), per datum.

    alpha = 0 is the importance-weighted bound, alpha = 1 is the ELBO (the limit), and alpha = inf is the logarithm of
    the largest weight (VR-max). Below 0 it is an upper bound on log p(x) only in the limit of large K.

    Args:
        alpha: the order, any number or infinity. The default 0.5 is between ELBO and IWAE.
        particles: K, draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 1`` or alpha is not a number; in use, if a guide site cannot have the gradient in
            ``gradients``.

    Source: Li & Turner, Rényi Divergence Variational Inference, arXiv:1602.02311, equations 13 and 14.

    Example:
        >>> import pvae, torch
        >>> weights = pvae.log_weights(pvae.VAE(4, latent=2, hidden=8), torch.eye(4), particles=8)
        >>> iwae, renyi, elbo = (pvae.Renyi(alpha, particles=8).surrogate(weights) for alpha in (0.0, 0.5, 1.0))
        >>> bool((iwae >= renyi).all() and (renyi >= elbo).all())
        True
    """

    pathwise = False

    def __init__(self, alpha: float = 0.5, particles: int = 5, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        self.alpha = checked_order(alpha)
        self.averages = particles == 1 or self.alpha == 1.0

    def settings(self) -> dict[str, Any]:
        """Return the order and the number of particles."""
        return {"alpha": self.alpha, **super().settings()}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the bound, shape (batch,), in nats."""
        if self.alpha == 1.0:
            return weights.log_w.mean(0)
        if self.alpha == math.inf:
            return weights.log_w.amax(0)
        return log_mean_exp((1.0 - self.alpha) * weights.log_w) / (1.0 - self.alpha)
