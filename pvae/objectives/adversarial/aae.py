"""`AAE`: the adversarial autoencoder, which matches the aggregate posterior to the prior by a critic."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from pvae.objectives.adversarial.base import Adversarial
from pvae.objectives.adversarial.critic_inputs import codes_in_model_order, draw_codes, simulate
from pvae.objectives.adversarial.sides import Sides
from pvae.objectives.base import Terms, scaled_sums
from pvae.objectives.gradients.strategies import require_pathwise
from pvae.objectives.named import named
from pvae.programs.bound import BoundPrograms
from pvae.weights.compute import weights_of

__all__ = ["AAE"]


@named("aae", "adversarial autoencoder: reconstruction; a critic matches the aggregate posterior to the prior; biased")
class AAE(Adversarial):
    """Adversarial autoencoder: maximises E log p(x given z), and matches the aggregate posterior to the prior.

    q is the aggregate posterior (the codes of the batch), and p is the model's prior. `log_ratio(z)` estimates
    log q(z) - log p(z), which is positive where the codes are denser than the prior. (In the paper class 1 is the
    prior.) A step updates ``together`` (theta and phi, by reconstruction), then ``critic``, then ``phi`` against the
    critic. Of the ELBO's KL(q(z given x) to p(z)), this keeps only KL(q(z) to p(z)), replaced by the divergence of the
    loss. It leaves out the information that z has about x.

    Guides may have noise or be deterministic (`pyro.distributions.Delta` sites, an autoencoder). The critic sees all
    latent sites together. A prior with parameters gets no gradient, because it is the target.

    phi is updated twice per step; an optimiser such as Adam keeps one state for both updates.

    The arguments are those of `Adversarial`. The reported loss is minus E log p(x given z), which is not a bound. The
    validation bound is the importance-weighted bound of the guide, a true bound on log p(x). It is often very loose,
    because no term keeps q(z given x) as wide as the posterior. It is therefore recorded but does not rank epochs: the
    last parameters are kept. A guide of Delta sites has no bound.

    Raises:
        InputError: in use, if a site of the guide has no pathwise gradient.

    Source: Makhzani et al., Adversarial Autoencoders, arXiv:1511.05644, section 2.

    Example:
        >>> import pvae, torch
        >>> model = pvae.Autoencoder(4, latent=2, hidden=8, prior="standard")
        >>> objective, x = pvae.AAE(hidden=(8,)), torch.eye(4).repeat(10, 1)
        >>> run = pvae.fit(model, x, objective=objective, epochs=1, step="eager", progress=False)
        >>> objective.players  # the parameters that a step updates, in this order
        ('together', 'critic', 'phi')
    """

    players = ("together", "critic", "phi")
    unions = MappingProxyType({"together": ("theta", "phi")})
    moves = "q"

    def sides(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sides:
        """Return codes of the data, and the same number of draws of the prior."""
        programs = BoundPrograms(model, guide, args, kwargs)
        codes, guide_trace = draw_codes(programs)
        with torch.no_grad():
            simulation = simulate(programs, guide_trace)
        codes = codes_in_model_order(codes, simulation)
        return Sides(tuple(codes.values()), tuple(simulation.latent.values()), simulation.scale)

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a player for one batch: the sum over data, each times its scale."""
        if player != "together":
            return super().terms(model, guide, args, kwargs, player)
        programs = BoundPrograms(model, guide, args, kwargs)
        self._make_critic(programs)
        return self._reconstruction_terms(programs)

    def _reconstruction_terms(self, programs: BoundPrograms) -> Terms:
        """Return minus the sum over data of log p(x given z) at one draw of the guide, each times its scale."""
        weights = weights_of(programs, 1)
        require_pathwise(type(self).__name__, weights)
        log_likelihood = weights.log_likelihood()[0]
        loss = -(log_likelihood * weights.scale).sum()
        named = weights.named() if weights.has_density else {"log_likelihood": log_likelihood.detach()}
        return Terms(loss.detach(), loss, scaled_sums(named, weights.scale))
