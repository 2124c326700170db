"""`GAN`: generative adversarial networks, which match p(x) to the data by a critic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pvae.objectives.adversarial.base import Adversarial
from pvae.objectives.adversarial.critic_inputs import simulate
from pvae.objectives.adversarial.sides import Sides
from pvae.objectives.named import named
from pvae.programs.bound import BoundPrograms

__all__ = ["GAN"]


@named("gan", "GAN: a critic matches p(x) to the data; the guide is not trained; biased")
class GAN(Adversarial):
    """Generative adversarial network: a critic compares simulations of the model with the data; the guide is not used.

    q is the data, and p is the model with z drawn from its prior. `log_ratio(x)` estimates log q(x) - log p(x), which
    is positive where the density of the model is too small. A step updates ``critic``, then ``theta``. phi is not
    updated, so the guide's weights do not estimate the evidence; to get codes, train the guide afterwards.

    If the likelihood is reparameterised (a Normal, for example), x is drawn from it. Otherwise (Bernoulli, Categorical)
    no gradient would pass through a draw, and the mean of p(x given z) is the generator's output. A critic easily
    separates such grey values from binary data, so prefer grey data and a Gaussian likelihood. The critic sees several
    observed sites together. With conditions (see `Adversarial`), p(x given c) is matched.

    With the best critic, the loss ``"minimax"`` has twice the gradient of the Jensen-Shannon divergence, which almost
    vanishes where the critic is certain. ``"non-saturating"``, the default, has the same fixed point and a larger
    gradient there.

    The arguments are those of `Adversarial`.

    Sources: Goodfellow et al., Generative Adversarial Networks, arXiv:1406.2661, algorithm 1; Mirza & Osindero,
        Conditional Generative Adversarial Nets, arXiv:1411.1784.

    Example:
        >>> import pvae, torch
        >>> model = pvae.VAE(4, latent=2, hidden=8, likelihood="gaussian")
        >>> objective = pvae.GAN(hidden=(8,))
        >>> run = pvae.fit(model, torch.randn(40, 4), objective=objective, epochs=1, step="eager", progress=False)
        >>> objective.players  # the guide, phi, is not trained
        ('critic', 'theta')
    """

    players = ("critic", "theta")
    untrained = ("phi",)
    moves = "p"
    no_bound = (
        "a GAN has no density of x, so a critic's loss is not a bound on the evidence, and the guide is not trained"
    )

    def sides(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sides:
        """Return the data, and the same number of simulations of the model."""
        simulation = simulate(BoundPrograms(model, guide, args, kwargs))
        return Sides(tuple(simulation.data.values()), tuple(simulation.drawn.values()), simulation.scale)
