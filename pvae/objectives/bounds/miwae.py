"""Combinations of the ELBO and the importance-weighted bound: MIWAE, CIWAE, PIWAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import require_number, require_whole
from pvae.objectives.base import Terms
from pvae.objectives.bounds.iwae import IWAE
from pvae.objectives.gradients.baselines import gradient_only
from pvae.objectives.named import named
from pvae.objectives.phases.alternating import PlayersObjective
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.weights import LogWeights, log_mean_exp

__all__ = ["CIWAE", "MIWAE", "PIWAE"]


@named("miwae", "mean of several importance-weighted bounds")
class MIWAE(WeightsObjective):
    """The mean of M importance-weighted bounds of K particles each, per datum.

    It is between the ELBO (K = 1) and the importance-weighted bound of K M particles (M = 1). Its gradient for the
    guide has a higher signal-to-noise ratio than that of one bound with K M particles.

    Args:
        particles: K, draws of z in one bound.
        batches: M, the number of bounds. There are K M draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: if either number is below 1.

    Source: Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, arXiv:1802.04537, section 4.

    Example:
        >>> import pvae, torch
        >>> weights = pvae.log_weights(pvae.VAE(4, latent=2, hidden=8), torch.eye(4), particles=8)
        >>> miwae = pvae.MIWAE(particles=4, batches=2).surrogate(weights)
        >>> iwae = pvae.IWAE(particles=8).surrogate(weights)
        >>> bool((miwae <= iwae).all())
        True
    """

    pathwise = False

    def __init__(self, particles: int = 8, batches: int = 8, **options: Unpack[WeightsOptions]) -> None:
        self.within = require_whole(particles, "particles")
        self.batches = require_whole(batches, "batches")
        super().__init__(self.within * self.batches, **options)

    def settings(self) -> dict[str, Any]:
        """Return the particles of one bound, and the number of bounds."""
        return {"batches": self.batches, **super().settings(), "particles": self.within}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the mean of the bounds, shape (batch,), in nats."""
        return log_mean_exp(weights.log_w.unflatten(-2, (self.batches, self.within)), -2).mean(-2)


@named("ciwae", "combination of ELBO and importance-weighted bound")
class CIWAE(WeightsObjective):
    """A convex combination, beta ELBO + (1 - beta) IWAE, of the same K particles, per datum.

    Args:
        beta: the share of the ELBO, from 0 to 1.
        particles: K, draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 1`` or beta is outside [0, 1].

    Source: Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, arXiv:1802.04537, section 4.

    Example:
        >>> import pvae, torch
        >>> weights = pvae.log_weights(pvae.VAE(4, latent=2, hidden=8), torch.eye(4), particles=8)
        >>> elbo, iwae, both = (o.surrogate(weights) for o in (pvae.CIWAE(1.0), pvae.CIWAE(0.0), pvae.CIWAE(0.5)))
        >>> bool((elbo <= both).all() and (both <= iwae).all())
        True
    """

    pathwise = False

    def __init__(self, beta: float = 0.5, particles: int = 8, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        advice = "0 gives IWAE, 1 gives the ELBO."
        self.beta = float(require_number(beta, "beta", least=0, most=1, advice=advice))

    def settings(self) -> dict[str, Any]:
        """Return the share of the ELBO and the number of particles."""
        return {"beta": self.beta, **super().settings()}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the combination, shape (batch,), in nats."""
        return self.beta * weights.log_w.mean(-2) + (1.0 - self.beta) * log_mean_exp(weights.log_w, -2)


@named("piwae", "theta maximises one importance-weighted bound, phi the mean of several")
class PIWAE(PlayersObjective):
    """Two bounds: theta maximises the importance-weighted bound of K M particles, and phi maximises MIWAE.

    theta needs a tight bound, and phi needs a gradient with a high signal-to-noise ratio. Each of the two parameter
    groups has its own draws of z. The reported loss is minus the importance-weighted bound.

    Args:
        particles: K, draws of z in one bound of phi.
        batches: M, the number of bounds of phi. There are K M draws of z per datum and parameter group.
        options: see `WeightsOptions`.

    Raises:
        InputError: if either number is below 1; in use, if theta and phi share parameters and are not declared.

    Source: Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, arXiv:1802.04537, section 4.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4).repeat(10, 1)
        >>> objective = pvae.PIWAE(particles=4, batches=2)
        >>> run = pvae.fit(model, x, objective=objective, epochs=1, step="eager", progress=False)
        >>> objective.players  # each has its own draws and its own bound
        ('theta', 'phi')
    """

    def __init__(self, particles: int = 8, batches: int = 8, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(require_whole(particles, "particles") * require_whole(batches, "batches"))
        self.by_theta = IWAE(self.num_particles, **options)
        self.by_phi = MIWAE(particles, batches, **options)
        self.data_plate, self.biased = self.by_phi.data_plate, self.by_phi.biased

    def settings(self) -> dict[str, Any]:
        """Return the particles of one bound of phi, and the number of bounds."""
        return self.by_phi.settings()

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return minus the bound that the parameter group maximises, summed over data times their scales."""
        objective = self.by_theta if player == "theta" else self.by_phi
        return objective.terms(model, guide, args, kwargs, "all")

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Return the sum of both losses as a scalar, in nats; each loss has a gradient for its own group only.

        Args:
            model: p(x, z).
            guide: q(z given x).
            args: the positional arguments of both programs.
            kwargs: the keyword arguments of both programs.
        """
        total = torch.zeros(())
        for player in self.players:
            group = self.group(model, guide, args, kwargs, player)
            terms = self.terms(model, guide, args, kwargs, player)
            gradients = torch.autograd.grad(terms.surrogate, group, allow_unused=True)
            linear_terms = [
                (gradient_only(parameter) * gradient).sum()
                for parameter, gradient in zip(group, gradients, strict=True)
                if gradient is not None
            ]
            total = total + terms.loss + sum(linear_terms)
        return total
