"""Functions that list and classify the sample sites of traces and of message handlers."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from pvae.errors import InputError

__all__ = [
    "PARTICLE_PLATE",
    "PARTICLE_PLATES",
    "Site",
    "UnknownDensityError",
    "base_distribution",
    "is_delta",
    "is_discrete",
    "is_latent_draw",
    "is_marked_for_enumeration",
    "is_observation",
    "is_subsample",
    "log_density",
    "sample_sites",
]

PARTICLE_PLATE = "particles_of_pvae"

#: The names of the plates of particles, in pvae and in Pyro's losses.
PARTICLE_PLATES = (PARTICLE_PLATE, "num_particles_vectorized")

#: A site of a trace or a message of a handler: Pyro's mapping from strings.
Site = Any


def is_subsample(site: Site) -> bool:
    """Return whether a site draws the indices of a subsampled plate."""
    return isinstance(site.get("fn"), _Subsample)


def is_delta(site: Site) -> bool:
    """Return whether a site is a Delta: a point, or a function of other draws."""
    return isinstance(base_distribution(site["fn"]), dist.Delta)


def is_discrete(site: Site) -> bool:
    """Return whether a site has a discrete support; False if its distribution has no support."""
    try:
        return bool(site["fn"].support.is_discrete)
    except NotImplementedError:
        return False


def is_latent_draw(message: Site) -> bool:
    """Return whether a handler's message is a latent variable.

    Observed sites, subsample indices and ``pyro.deterministic`` are not latent variables.
    """
    if message["is_observed"] or message["infer"].get("_deterministic"):
        return False
    return not isinstance(message["fn"], _Subsample)


def is_observation(message: Site) -> bool:
    """Return whether a handler's message is an observed sample site."""
    return bool(message["type"] == "sample" and message["is_observed"])


def is_marked_for_enumeration(site: Site) -> bool:
    """Return whether a program asks, with Pyro's ``infer={"enumerate": ...}``, that a latent site is summed out."""
    return bool(site["infer"].get("enumerate")) and not site["is_observed"]


def sample_sites(trace: poutine.Trace) -> list[Site]:
    """Return the sample sites of a trace in order, without subsample indices and ``pyro.deterministic``."""
    sites = []
    for node in trace.nodes.values():
        site: Site = node
        is_draw = site["type"] == "sample" and not isinstance(site["fn"], _Subsample)
        if is_draw and not site["infer"].get("_deterministic"):
            sites.append(site)
    return sites


def base_distribution(distribution: Any) -> Any:
    """Return the distribution under `Independent` and `Masked` wrappers."""
    while isinstance(distribution, torch.distributions.Independent | dist.MaskedDistribution):
        distribution = distribution.base_dist
    return distribution


class UnknownDensityError(InputError):
    """The density of a site is known only at its own draws, but it is needed at another value."""


def log_density(site: Site) -> Tensor:
    """Return the log-density of a site's value, unmasked and unscaled, of the batch shape of its distribution.

    Raises:
        UnknownDensityError: if the distribution is a flow without an inverse, and the value is not its own draw.
    """
    try:
        log_prob: Tensor = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    except (KeyError, NotImplementedError) as error:
        if not isinstance(base_distribution(site["fn"]), torch.distributions.TransformedDistribution):
            raise
        raise UnknownDensityError(
            f"Site {site['name']!r} is drawn through a flow without an inverse, so its density is known only at its "
            "own draws, but this objective needs it at other values or with other parameters. Use 'elbo', 'iwae' or "
            "'renyi', or a flow with an inverse, such as pyro.distributions.transforms.affine_autoregressive."
        ) from error
    return log_prob
