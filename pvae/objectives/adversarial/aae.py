"""The adversarial autoencoder: reconstruction, and the aggregate posterior matched to the prior by a critic."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from pvae.errors import InputError
from pvae.objectives.adversarial.base import Adversarial, Sides
from pvae.objectives.adversarial.critic_inputs import encoded, in_order, simulated
from pvae.objectives.base import Call, Terms
from pvae.objectives.gradients.strategies import require_pathwise
from pvae.objectives.named import named
from pvae.weights import trace_weights

__all__ = ["AAE"]


@named("aae", "reconstruction, and the aggregate of the guide matched to the prior by a critic")
class AAE(Adversarial):
    """Adversarial autoencoder: E log p(x given z) is climbed at codes z, whose aggregate is matched to the prior.

    q is the aggregate posterior, codes of the batch, and p the model's prior, so `log_ratio(z)` estimates
    log q(z) - log p(z): positive where codes are denser than the prior. (The paper calls the prior class 1.) Players:
    ``together`` (theta and phi, by reconstruction), ``critic``, and ``phi``, whose codes fool the critic. In the ELBO's
    KL(q(z given x) to p(z)) this keeps the aggregate's part alone, KL(q(z) to p(z)), with the divergence of the loss in
    its place, and drops the price of the information that z has about x.

    Guides may be noisy or deterministic (`pyro.distributions.Delta` sites, an autoencoder's). The latent sites of both
    programs are judged joined. A prior with parameters gets no gradient: it is what is aimed at.

    phi takes two steps per step, and an optimiser such as Adam keeps one memory for both.

    The arguments are those of `Adversarial`. The reported loss is minus E log p(x given z), no bound. The validation
    bound is the importance-weighted one of the guide, a true bound on log p(x), and often a very loose one: nothing
    keeps q(z given x) as wide as the posterior. So it is recorded and ranks nothing: the last parameters are kept. A
    guide of points has none.

    Raises:
        InputError: in use, if a site of the guide lets no gradient through.
    Source: Makhzani et al., Adversarial Autoencoders, arXiv:1511.05644, section 2.
    """

    players = ("together", "critic", "phi")
    unions = MappingProxyType({"together": ("theta", "phi")})
    moves = "q"

    def sides(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> Sides:
        """Return codes of the data, and as many draws of the prior."""
        codes, encoding = encoded(model, guide, args, kwargs)
        with torch.no_grad():
            run = simulated(model, guide, args, kwargs, encoding)
        return Sides(tuple(in_order(codes, run).values()), tuple(run.latent.values()), run.scale)

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return what a player pays for one batch: the sum over data, each times its scale."""
        if player != "together":
            return super().terms(model, guide, args, kwargs, player)
        self._prepare(model, guide, args, kwargs)
        weights = trace_weights(model, guide, args, kwargs, 1)
        require_pathwise(type(self).__name__, weights)
        likelihood = weights.log_likelihood()[0]
        loss = -(likelihood * weights.scale).sum()
        try:
            named = weights.named()
        except InputError:  # a guide of points has no ELBO
            named = {"log_likelihood": likelihood}
        return Terms(loss.detach(), loss, {name: (each * weights.scale).sum().detach() for name, each in named.items()})
