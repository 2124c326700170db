"""ALI, or BiGAN: the joints of x and z matched by a critic on pairs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pvae.objectives.adversarial.base import Adversarial, Sides
from pvae.objectives.adversarial.critic_inputs import encoded, in_order, simulated
from pvae.objectives.base import Call
from pvae.objectives.named import named

__all__ = ["ALI"]


@named("ali", "ALI, BiGAN: pairs (x, z) of guide and model matched by a critic")
class ALI(Adversarial):
    """Adversarially learned inference: pairs (x, z) of data and guide against pairs of the model.

    q(x, z) is the data with z drawn from the guide, p(x, z) the model, so `log_ratio(x, z)` estimates
    log q(x, z) - log p(x, z): the observed sites first, then the latent ones, in the order of the model. Where the two
    joints agree the guide is the posterior, and the model's p(x) that of the data. Players: ``critic``, then
    ``generator``, which is theta and phi together. With a guide of `pyro.distributions.Delta` sites it is BiGAN.

    x is simulated as in `GAN`: drawn where the likelihood is reparameterised, else its mean. Nothing asks that x be
    reconstructed from its own z, and in practice it is only roughly.

    The arguments are those of `Adversarial`. The validation bound is the importance-weighted one of the guide, a true
    bound on log p(x) that nothing here climbs: it is recorded and ranks nothing, so the last parameters are kept. A
    guide of points has none.

    Raises:
        InputError: in use, if a site of the guide, or a latent one of the model with parameters, lets no gradient
            through.
    Sources: Dumoulin et al., Adversarially Learned Inference, arXiv:1606.00704; Donahue, Krähenbühl & Darrell,
        Adversarial Feature Learning, arXiv:1605.09782.
    """

    players = ("critic", "generator")
    unions = MappingProxyType({"generator": ("theta", "phi")})
    moves = "qp"

    def sides(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> Sides:
        """Return the data with their codes, and as many pairs that the model has drawn."""
        codes, encoding = encoded(model, guide, args, kwargs)
        run = simulated(model, guide, args, kwargs, encoding)
        codes = in_order(codes, run)
        return Sides((*run.data.values(), *codes.values()), (*run.drawn.values(), *run.latent.values()), run.scale)
