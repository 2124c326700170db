"""The inputs of a VAE-GAN: the draw of the guide, and data with reconstructions and samples."""

from __future__ import annotations

from dataclasses import dataclass

from pyro import poutine
from torch import Tensor

from pvae.errors import InputError
from pvae.objectives.adversarial.critic_inputs import draw_codes, simulate
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site, is_delta, sample_sites

__all__ = ["VAEGANInputs", "draw_one_site", "prior_of", "reconstruct_and_sample", "with_value"]


@dataclass(frozen=True)
class VAEGANInputs:
    """The inputs of the critic of a VAE-GAN.

    Attributes:
        data: the observed sites, each of shape (batch, features).
        reconstructed: the means of p(x given z) for z from the guide, likewise.
        sampled: the means of p(x given z) for z from the prior, likewise.
        scale: the factor of each datum; a number or shape (batch,).
    """

    data: tuple[Tensor, ...]
    reconstructed: tuple[Tensor, ...]
    sampled: tuple[Tensor, ...]
    scale: float | Tensor


def draw_one_site(programs: BoundPrograms) -> tuple[str, poutine.Trace]:
    """Return the name of the only latent site, and a trace of the guide.

    Raises:
        InputError: if there are several, or the site is discrete, is a point, or has no pathwise gradient.
    """
    codes, trace = draw_codes(programs)
    if len(codes) != 1:
        raise InputError(
            f"VAEGAN needs a guide with one latent site; this guide has {len(codes)}: {', '.join(codes)}. Join them to "
            "one site."
        )
    (name,) = codes
    site: Site = trace.nodes[name]
    if not site["value"].is_floating_point():
        raise InputError(
            f"VAEGAN needs a continuous z, through which a gradient reaches phi; guide site {name!r} is discrete. Use "
            "a Normal with to_event."
        )
    if is_delta(site):
        raise InputError(
            f"VAEGAN needs a density of z for the KL divergence to the prior; guide site {name!r} is a Delta, a point. "
            "Draw the site from a density, as pvae.VAE does."
        )
    return name, trace


def prior_of(programs: BoundPrograms, trace: poutine.Trace, name: str) -> Site:
    """Return the prior of the only latent site, at the draw of a trace of the guide.

    Raises:
        InputError: if the model has other latent sites: the prior of this one may depend on them, and its KL divergence
            is then not that of the marginal prior.
    """
    sites = {site["name"]: site for site in sample_sites(programs.trace_model(trace)) if not site["is_observed"]}
    if list(sites) != [name]:
        raise InputError(
            f"VAEGAN needs the same latent site in both programs; the guide draws {name}, and the model draws "
            f"{', '.join(sites) or 'nothing'}. Make the sites equal."
        )
    return sites[name]


def reconstruct_and_sample(programs: BoundPrograms, trace: poutine.Trace) -> VAEGANInputs:
    """Return the data with reconstructions at the codes of a trace of the guide, and with samples."""
    reconstructed = simulate(programs, trace, at_codes=True, means=True)
    sampled = simulate(programs, trace, means=True)
    return VAEGANInputs(
        tuple(reconstructed.data.values()),
        tuple(reconstructed.drawn.values()),
        tuple(sampled.drawn.values()),
        reconstructed.scale,
    )


def with_value(trace: poutine.Trace, name: str, value: Tensor) -> poutine.Trace:
    """Return a copy of a trace with another value of one site."""
    copy = trace.copy()
    copy.nodes[name] = copy.nodes[name].copy() | {"value": value}
    return copy
