"""Objectives with the variance of the log weights, which is 0 if and only if the guide is the posterior."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.objectives.base import Objective
from pvae.objectives.bounds.score_only import ScoreOnlyObjective
from pvae.objectives.kl.weighted_kl import Beta
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.weights import LogWeights

__all__ = ["LogVariance", "VarianceRegularised"]


def _require_several(particles: Any) -> None:
    require_whole(particles, "particles", least=2, advice="A variance needs several particles.")


@named("variance", "ELBO minus weight times the variance of the log weights")
class VarianceRegularised(WeightsObjective):
    """The ELBO minus `weight` times the variance of log w under the guide, per datum.

    The variance is the unbiased estimate over the particles, so value and gradient are unbiased too. A guide site that
    is not reparameterised contributes a score-function term to the gradient.

    Args:
        weight: the weight of the variance; 0 gives the ELBO.
        particles: draws of z per datum, at least 2.
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 2`` or the weight is negative.

    Example:
        >>> import pvae, torch
        >>> weights = pvae.log_weights(pvae.VAE(4, latent=2, hidden=8), torch.eye(4), particles=8)
        >>> value = pvae.VarianceRegularised(0.5, particles=8).surrogate(weights)
        >>> bool(torch.allclose(value, weights.log_w.mean(0) - 0.5 * weights.log_w.var(0)))
        True
    """

    pathwise = False

    def __init__(self, weight: float = 0.5, particles: int = 8, **options: Unpack[WeightsOptions]) -> None:
        _require_several(particles)
        super().__init__(particles, **options)
        if not weight >= 0:
            raise InputError(f"weight must be at least 0; got {weight!r}.")
        self.weight = float(weight)

    def settings(self) -> dict[str, Any]:
        """Return the weight and the number of particles."""
        return {"weight": self.weight, **super().settings()}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the regularised bound, shape (batch,), in nats."""
        return weights.log_w.mean(-2) - self.weight * weights.log_w.var(-2)


@named("log-variance", "VarGrad: phi minimises the variance of the log weights; for any guide")
class LogVariance(ScoreOnlyObjective):
    """VarGrad: theta maximises the ELBO, and phi minimises half the variance of log w under draws of the fixed guide.

    At the present guide, the gradient for phi is that of the ELBO: it equals the score-function estimator with the mean
    of the other particles as the baseline (leave-one-out). The reported loss is minus the ELBO.

    Args:
        particles: draws of z per datum, at least 2.
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 2``.

    Source: Richter et al., VarGrad: A Low-Variance Gradient Estimator for Variational Inference, arXiv:2010.10436.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> loss = pvae.LogVariance(particles=8).loss_and_grads(model.model, model.guide, x)
        >>> all(parameter.grad is not None for parameter in model.parameters())
        True
    """

    def __init__(self, particles: int = 8, **options: Unpack[WeightsOptions]) -> None:
        _require_several(particles)
        super().__init__(particles, **options)
        self.options = options

    def target(self) -> Objective:
        """Return the ELBO."""
        return Beta(1.0, self.num_particles, **self.options)

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the ELBO, shape (batch,), in nats."""
        return weights.log_w.detach().mean(0)

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the ELBO with a gradient for theta, minus half the variance with a gradient for phi only, (batch,)."""
        return weights.log_joint.mean(0) - 0.5 * (weights.log_joint.detach() - weights.log_guide).var(0)
