"""GAN: p(x) matched to the data by a critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pvae.objectives.adversarial.base import Adversarial, Sides
from pvae.objectives.adversarial.critic_inputs import simulated
from pvae.objectives.base import Call
from pvae.objectives.named import named

__all__ = ["GAN"]


@named("gan", "p(x) matched to the data by a critic; the guide stays untrained")
class GAN(Adversarial):
    """Generative adversarial network: simulations of the model against the data; the guide has no part in it.

    q is the data and p the model with z drawn from its prior, so `log_ratio(x)` estimates log q(x) - log p(x): positive
    where the model gives too little. Players: ``critic``, then ``theta``. phi stays as it is (train the guide
    afterwards where codes are wanted), so no evidence can be judged by its weights.

    Where the likelihood is reparameterised (a Normal, say) x is drawn from it. Else (Bernoulli, Categorical) no
    gradient would pass the draw, and the mean of p(x given z) is the generator's output: grey values, which a critic
    tells from binary data at a glance, so give grey data and a Gaussian likelihood where you can. Several observed
    sites are judged together. With conditions (`Adversarial`) it is p(x given c) that is matched.

    A loss of ``"minimax"`` at the best critic follows twice the gradient of the Jensen-Shannon divergence, and hardly
    any where the critic is sure; ``"non-saturating"``, the default, has the same fixed point and a gradient there.

    The arguments are those of `Adversarial`.

    Sources: Goodfellow et al., Generative Adversarial Networks, arXiv:1406.2661, algorithm 1; Mirza & Osindero,
    Conditional Generative Adversarial Nets, arXiv:1411.1784.
    """

    players = ("critic", "theta")
    untrained = ("phi",)
    moves = "p"
    no_bound = "a GAN has no density of x: a critic's loss bounds no evidence, and the guide stays untrained"

    def sides(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> Sides:
        """Return the data, and as many simulations of the model."""
        run = simulated(model, guide, args, kwargs)
        return Sides(tuple(run.data.values()), tuple(run.drawn.values()), run.scale)
