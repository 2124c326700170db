"""`ALI`: adversarially learned inference (BiGAN), which matches the joint distributions of x and z by a critic."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pvae.objectives.adversarial.base import Adversarial
from pvae.objectives.adversarial.critic_inputs import codes_in_model_order, draw_codes, simulate
from pvae.objectives.adversarial.sides import Sides
from pvae.objectives.named import named
from pvae.programs.bound import BoundPrograms

__all__ = ["ALI"]


@named("ali", "ALI, BiGAN: a critic matches pairs (x, z) of the guide and of the model; biased")
class ALI(Adversarial):
    """Adversarially learned inference: a critic compares pairs (x, z) of data and guide with pairs of the model.

    q(x, z) is the data with z drawn from the guide, and p(x, z) is the model. `log_ratio(x, z)` estimates
    log q(x, z) - log p(x, z); it takes the observed sites first, then the latent ones, in the order of the model. If
    the two joint distributions agree, the guide is the posterior, and p(x) is the distribution of the data. A step
    updates ``critic``, then ``generator``, which is theta and phi together. With a guide of `pyro.distributions.Delta`
    sites this is BiGAN.

    x is simulated as in `GAN`: drawn if the likelihood is reparameterised, else its mean. No term of the loss
    reconstructs x from its own z, and in practice the reconstructions are only rough.

    The arguments are those of `Adversarial`. The validation bound is the importance-weighted bound of the guide, a true
    bound on log p(x). ALI does not maximise it, so it is recorded but does not rank epochs: the last parameters are
    kept. A guide of Delta sites has no bound.

    Raises:
        InputError: in use, if a site of the guide, or a latent site of the model with parameters, has no pathwise
            gradient.

    Sources: Dumoulin et al., Adversarially Learned Inference, arXiv:1606.00704; Donahue, Krähenbühl & Darrell,
        Adversarial Feature Learning, arXiv:1605.09782.

    Example:
        >>> import pvae, torch
        >>> model = pvae.VAE(4, latent=2, hidden=8, likelihood="gaussian")
        >>> objective = pvae.ALI(hidden=(8,))
        >>> run = pvae.fit(model, torch.randn(40, 4), objective=objective, epochs=1, step="eager", progress=False)
        >>> objective.players, objective.unions
        (('critic', 'generator'), mappingproxy({'generator': ('theta', 'phi')}))
    """

    players = ("critic", "generator")
    unions = MappingProxyType({"generator": ("theta", "phi")})
    moves = "qp"

    def sides(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sides:
        """Return the data with their codes, and the same number of pairs drawn from the model."""
        programs = BoundPrograms(model, guide, args, kwargs)
        codes, guide_trace = draw_codes(programs)
        simulation = simulate(programs, guide_trace)
        codes = codes_in_model_order(codes, simulation)
        return Sides(
            q=(*simulation.data.values(), *codes.values()),
            p=(*simulation.drawn.values(), *simulation.latent.values()),
            scale=simulation.scale,
        )
