"""`Dirac`: log p(x, z) at one point of the guide, the limit of an ELBO without noise in the guide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.errors import InputError
from pvae.objectives.base import Objective, Terms, scaled_sums
from pvae.objectives.named import named
from pvae.programs.bound import BoundPrograms
from pvae.programs.program_in_context import with_guide_in
from pvae.programs.sites import base_distribution, is_latent_draw
from pvae.weights import LogWeights
from pvae.weights.compute import weights_of

__all__ = ["Dirac", "weights_at_means"]


@named("dirac", "log p(x, z) at the mean of the guide, without noise; not a bound on log p(x)")
class Dirac(Objective):
    """log p(x, z) at one point z of the guide, per datum: a MAP encoder, a deterministic autoencoder with a prior.

    The point is the mean of each guide site: the value of a `pyro.distributions.Delta`, or the mean of another density.
    A point has no entropy. The entropy term of the ELBO, which tends to minus infinity like the logarithm of the
    noise's scale, is left out by definition. The rest is not a bound on log p(x): it grows without limit if the decoder
    can scale its input up while the codes shrink towards the mode of the prior.

    Validation uses the objective's own value. ``log_likelihood`` and ``log_prior`` are recorded too. If every guide
    site has noise, the ``elbo`` of one draw is recorded too.

    Args:
        data_plate: the name of the plate over data, if several plates hold every site.

    Raises:
        InputError: in use, if a site is discrete or its mean has no closed form.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.Autoencoder(4, latent=2, hidden=8, prior="standard"), torch.eye(4)
        >>> terms = pvae.Dirac().terms(model.model, model.guide, (x,), {}, "all")
        >>> sorted(terms.named)
        ['log_likelihood', 'log_prior']
    """

    no_bound = "log p(x, z) at a point is not a bound on log p(x)"

    def __init__(self, data_plate: str | None = None) -> None:
        super().__init__(1)
        self.data_plate = data_plate

    def settings(self) -> dict[str, Any]:
        """Return no settings: there is one point."""
        return {}

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return minus the sum over data of log p(x, z) at the guide's point, each times its scale."""
        programs = BoundPrograms(model, guide, args, kwargs)
        weights, has_noise = weights_at_means(programs, self.data_plate, "Dirac")
        log_joint = weights.log_joint[0]
        log_likelihood = weights.log_likelihood()[0]
        named = {"log_likelihood": log_likelihood, "log_prior": log_joint - log_likelihood}
        if has_noise:
            named["elbo"] = self._elbo(programs)
        loss = -(log_joint * weights.scale).sum()
        return Terms(loss.detach(), loss, scaled_sums(named, weights.scale))

    def _elbo(self, programs: BoundPrograms) -> Tensor:
        """Return the ELBO of one draw of the guide, shape (batch,), nats, without gradient."""
        with torch.no_grad():
            return weights_of(programs, 1, data_plate=self.data_plate, per_datum=False).log_w[0]


def weights_at_means(programs: BoundPrograms, data_plate: str | None, objective: str) -> tuple[LogWeights, bool]:
    """Return the log weights of one run in which each guide site has its mean; and whether every site has noise.

    Args:
        programs: both programs with their arguments.
        data_plate: the name of the plate over data, if several plates hold every site.
        objective: the name of the objective, for errors.

    Raises:
        InputError: if a site is discrete or its mean has no closed form.
    """
    has_noise: dict[str, bool] = {}
    at_means = with_guide_in(lambda: _MeanMessenger(has_noise, objective), programs)
    return weights_of(at_means, 1, data_plate=data_plate, per_datum=False), all(has_noise.values())


class _MeanMessenger(Messenger):
    """Gives each latent site its mean instead of a draw, and records which sites have noise.

    Args:
        has_noise: filled with a truth value for each latent site: False for a Delta.
        objective: the name of the objective, for errors.
    """

    def __init__(self, has_noise: dict[str, bool], objective: str) -> None:
        super().__init__()
        self.has_noise = has_noise
        self.objective = objective

    def _pyro_sample(self, msg: Any) -> None:
        if not is_latent_draw(msg):
            return
        self.has_noise[msg["name"]] = not isinstance(base_distribution(msg["fn"]), dist.Delta)
        if not msg["done"]:
            msg["value"] = _mean(msg["name"], msg["fn"], self.objective)
            msg["done"] = True


def _mean(site: str, density: Any, objective: str) -> Tensor:
    """Return the mean of a continuous density, in the shape of a draw."""
    family = type(base_distribution(density)).__name__
    if getattr(density.support, "is_discrete", False):
        raise InputError(
            f"{objective} needs continuous guide sites; site {site!r} is {family}, and the mean of discrete values is "
            "not one of these values. Use phi='exact' of 'alternate', or 'elbo-enum'."
        )
    try:
        mean: Tensor = density.mean
    except (AttributeError, NotImplementedError):
        raise InputError(
            f"{objective} needs the mean of each guide site; site {site!r} is {family}, which has no mean in closed "
            "form. Draw it from a pyro.distributions.Delta, or from a density with a mean."
        ) from None
    return mean
