"""Pathwise gradients of lower variance: the score of the guide, which has mean zero or a better form, left out."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.objectives.base import Objective
from pvae.objectives.bounds.iwae import IWAE, Renyi, order
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.weights import LogWeights, log_mean_exp

__all__ = ["DReG", "StickingTheLanding"]


@named("stl", "pathwise gradient without the guide's score; biased for particles > 1")
class StickingTheLanding(WeightsObjective):
    """The importance-weighted bound whose guide gradient leaves out the score: exactly zero at the exact posterior.

    For one particle this is the ELBO, unbiased. For more it is biased: its guide gradient tends to that of the wake
    phase of reweighted wake-sleep. Use `DReG` there.

    Args:
        particles: K, draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 1``; in use, if a guide site is not reparameterised.
    Sources: Roeder, Wu & Duvenaud, Sticking the Landing, arXiv:1703.09194, equation 8; Tucker et al., arXiv:1810.04152,
        section 2 (the bias).
    """

    def __init__(self, particles: int = 1, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        if particles > 1:
            self.biased = "; ".join(filter(None, ["the score is left out for particles > 1", self.biased]))

    def target(self) -> Objective:
        """Return the importance-weighted bound of as many particles."""
        return IWAE(self.num_particles, data_plate=self.data_plate)

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the bound with phi stopped in log q, shape (batch,), in nats."""
        return log_mean_exp(weights.log_joint - weights.log_guide_with_phi_stopped())


@named("dreg", "IWAE with the doubly reparameterised guide gradient: less noise, unbiased")
class DReG(WeightsObjective):
    """The Rényi bound (importance-weighted at alpha = 0) with the doubly reparameterised guide gradient: unbiased.

    Its signal-to-noise ratio grows with the number of particles, where that of the plain guide gradient falls. The
    model's gradient is that of the bound.

    Args:
        particles: K, draws of z per datum; the paper's setting is 64.
        alpha: the order of the Rényi bound; 0 is IWAE, 1 is sticking the landing.
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 1`` or alpha is no finite number; in use, if a guide site is not reparameterised.
    Source: Tucker, Lawson, Gu & Maddison, Doubly Reparameterized Gradient Estimators, arXiv:1810.04152, equation 8
        (IWAE) and appendix 8.4 (Rényi: alpha w + (1 - alpha) w^2 in place of w^2).
    """

    def __init__(self, particles: int = 8, alpha: float = 0.0, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        self.alpha = order(alpha, finite=True)

    def settings(self) -> dict[str, Any]:
        """Return the order where it is not 0, and the number of particles."""
        return {**({"alpha": self.alpha} if self.alpha else {}), **super().settings()}

    def target(self) -> Objective:
        """Return the bound whose gradient this is."""
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
        """Return what has the model's gradient of the bound, and the guide's doubly reparameterised one, (batch,)."""
        log_q, entering = weights.log_guide_at_model_z()
        log_w = weights.log_joint - log_q
        share = torch.softmax((1.0 - self.alpha) * log_w.detach(), 0)
        # what reaches z carries the share already: once more for alpha = 0, not at all for alpha = 1
        factor = self.alpha + (1.0 - self.alpha) * share
        for particles, site, z in entering:
            if z.requires_grad:
                z.register_hook(_times(weights.expand_to_site(factor[particles], site)))
        return (share * log_w).sum(0)


def _times(factor: Tensor) -> Any:
    return lambda gradient: gradient * factor
