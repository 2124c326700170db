"""The noise-free limit: log p(x, z) at the one point that the guide names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.errors import InputError
from pvae.objectives.base import Call, Objective, Terms
from pvae.objectives.named import named
from pvae.objectives.phases.alternating import Within
from pvae.programs.sites import base_distribution
from pvae.weights import trace_weights

__all__ = ["Dirac"]


@named("dirac", "log p(x, z) at the guide's point: the noise-free limit, no bound")
class Dirac(Objective):
    """log p(x, z) at z = the guide's point, per datum: a MAP encoder, a deterministic autoencoder with a prior.

    The point is the mean of each guide site: the place of a `pyro.distributions.Delta`, or another density with its
    noise left out. A point has no entropy; the ELBO's, which falls to minus infinity like the logarithm of the
    noise's scale, is left out by definition. What is left is no bound on log p(x): it rises without limit where a
    decoder may scale its input up while the codes shrink towards the prior's mode.

    The validation value is the objective's own. Beside it ``log_likelihood`` and ``log_prior`` are recorded, and, where
    every guide site has noise, the ``elbo`` of one draw with it.

    Args:
        data_plate: the name of the plate over data, where several hold every site.

    Raises:
        InputError: in use, if a site is discrete or its mean has no closed form.
    """

    #: why the value is no bound on log p(x)
    no_bound = "log p(x, z) at a point is no bound on log p(x)"

    def __init__(self, data_plate: str | None = None) -> None:
        super().__init__(1)
        self.data_plate = data_plate

    def settings(self) -> dict[str, Any]:
        """Return nothing: there is one point, and no setting."""
        return {}

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return minus the sum over data of log p(x, z) at the guide's point, each times its scale."""
        noise: dict[str, bool] = {}
        at_points = Within(guide, lambda: _Points(noise))
        weights = trace_weights(model, at_points, args, kwargs, 1, data_plate=self.data_plate)
        value, likelihood = weights.log_joint[0], weights.log_likelihood()[0]
        named = {"log_likelihood": likelihood, "log_prior": value - likelihood}
        if all(noise.values()):
            named["elbo"] = self._elbo(model, guide, args, kwargs)
        loss = -(value * weights.scale).sum()
        return Terms(loss.detach(), loss, {name: (each * weights.scale).sum().detach() for name, each in named.items()})

    def _elbo(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any]) -> Tensor:
        with torch.no_grad():
            return trace_weights(model, guide, args, kwargs, 1, data_plate=self.data_plate).log_w[0]


class _Points(Messenger):
    """Puts the mean of each latent site in the place of a draw, and notes which sites have noise."""

    def __init__(self, noise: dict[str, bool]) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["infer"].get("_deterministic") or type(msg["fn"]).__name__ == "_Subsample":
            return
        self.noise[msg["name"]] = not isinstance(base_distribution(msg["fn"]), dist.Delta)
        if not msg["done"]:
            msg["value"], msg["done"] = _point(msg["name"], msg["fn"]), True


def _point(name: str, density: Any) -> Tensor:
    kind = type(base_distribution(density)).__name__
    if getattr(density.support, "is_discrete", False):
        raise InputError(
            f"Dirac needs continuous guide sites, and {name!r} is {kind}: a mean of discrete values is none of them. "
            "Use phi='exact' of 'alternate', or 'elbo-enum'."
        )
    try:
        point: Tensor = density.mean
    except (AttributeError, NotImplementedError):
        raise InputError(
            f"Dirac needs the mean of guide site {name!r}, and {kind} has none in closed form: draw it from a "
            "pyro.distributions.Delta, or from a density with a mean."
        ) from None
    return point
