"""Pathwise gradients of lower variance: sticking the landing (STL) and the doubly reparameterised gradient (DReG)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.objectives.base import Objective
from pvae.objectives.bounds.iwae import IWAE, Renyi, checked_order
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.weights import LogWeights, log_mean_exp

__all__ = ["DReG", "StickingTheLanding"]


@named("stl", "pathwise gradient without the guide's score; biased for particles > 1")
class StickingTheLanding(WeightsObjective):
    """The importance-weighted bound without the score term in the guide's gradient.

    The gradient for the guide is exactly zero if the guide is the posterior. For one particle the objective is the
    ELBO, and the gradient is unbiased. For several particles it is biased: it tends to the gradient of the wake phase
    of reweighted wake-sleep. Use `DReG` for several particles.

    Args:
        particles: K, draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 1``; in use, if a guide site is not reparameterised.

    Sources: Roeder, Wu & Duvenaud, Sticking the Landing, arXiv:1703.09194, equation 8; Tucker et al., arXiv:1810.04152,
        section 2 (the bias).

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> loss = pvae.StickingTheLanding().loss_and_grads(model.model, model.guide, x)
        >>> all(parameter.grad is not None for parameter in model.parameters())
        True
    """

    def __init__(self, particles: int = 1, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        if particles > 1:
            self.biased = "; ".join(filter(None, ["the score is left out for particles > 1", self.biased]))

    def target(self) -> Objective:
        """Return the importance-weighted bound with the same number of particles."""
        return IWAE(self.num_particles, data_plate=self.data_plate)

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the bound with phi stopped in log q, shape (batch,), in nats."""
        return log_mean_exp(weights.log_joint - weights.log_guide_with_phi_stopped())


@named("dreg", "IWAE with the doubly reparameterised gradient of the guide: unbiased, with less variance")
class DReG(WeightsObjective):
    """The Rényi bound (importance-weighted at alpha = 0) with the doubly reparameterised guide gradient: unbiased.

    Its signal-to-noise ratio grows with the number of particles, while the ratio of the plain gradient for the guide
    decreases. The gradient for the model is that of the bound.

    Args:
        particles: K, draws of z per datum; the paper's setting is 64.
        alpha: the order of the Rényi bound; 0 is IWAE, and 1 is sticking the landing.
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 1`` or alpha is not a finite number; in use, if a guide site is not
            reparameterised.

    Source: Tucker, Lawson, Gu & Maddison, Doubly Reparameterized Gradient Estimators, arXiv:1810.04152, equation 8
        (IWAE) and appendix 8.4 (Rényi: alpha w + (1 - alpha) w^2 in place of w^2).

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> loss = pvae.DReG(particles=64).loss_and_grads(model.model, model.guide, x)  # as in SVI.step
        >>> all(parameter.grad is not None for parameter in model.parameters())
        True
    """

    def __init__(self, particles: int = 8, alpha: float = 0.0, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        self.alpha = checked_order(alpha, finite=True)

    def settings(self) -> dict[str, Any]:
        """Return the order if it is not 0, and the number of particles."""
        return {**({"alpha": self.alpha} if self.alpha else {}), **super().settings()}

    def target(self) -> Objective:
        """Return the bound with the gradient that this objective estimates."""
        if self.alpha == 0.0:
            return IWAE(self.num_particles, data_plate=self.data_plate)
        return Renyi(self.alpha, self.num_particles, data_plate=self.data_plate)

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the Rényi bound, shape (batch,), in nats."""
        log_w = weights.log_w.detach()
        if self.alpha == 1.0:
            return log_w.mean(0)
        return log_mean_exp((1.0 - self.alpha) * log_w) / (1.0 - self.alpha)

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return a number per datum with the bound's gradient for theta and DReG's gradient for phi, shape (batch,)."""
        log_q, received_values = weights.log_guide_at_model_z()
        log_w = weights.log_joint - log_q
        share = torch.softmax((1.0 - self.alpha) * log_w.detach(), 0)
        # The gradient that reaches z already contains the factor `share`. DReG multiplies it by `share` once more for
        # alpha = 0, and by 1 for alpha = 1.
        factor = self.alpha + (1.0 - self.alpha) * share
        for particles, site, z in received_values:
            if z.requires_grad:
                z.register_hook(_multiply_by(weights.expand_to_site(factor[particles], site)))
        return (share * log_w).sum(0)


def _multiply_by(factor: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a hook that multiplies a gradient by a factor."""

    def hook(gradient: Tensor) -> Tensor:
        return gradient * factor

    return hook
