"""Codes without noise, and reconstructions in which summed-out sites have their exact posterior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pvae.models.site_values import SiteValueMessenger
from pvae.programs.binding import Fields
from pvae.programs.bound import BoundPrograms
from pvae.programs.data_sites import find_data_sites
from pvae.programs.ignored_masks import require_masks_taken
from pvae.programs.queries import codes_of_data, encode, inference_mode, mean_of_site
from pvae.programs.sites import base_distribution, is_discrete, sample_sites
from pvae.programs.usable_data import require_usable
from pvae.weights.compute import weights_of
from pvae.weights.posterior_draws import draw_latents
from pvae.weights.shared import has_summed_sites

__all__ = ["discrete_sites", "local_codes", "plausible_codes", "reconstruct", "summed_out_values"]


def plausible_codes(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> dict[str, Tensor]:
    """Return the guide's mean of each latent site, or its most probable value if the site has few values.

    If a site depends on another one, it is computed at the returned value of the other one. If a mean has no closed
    form, as for a flow, the value is a draw. A guide with auxiliary sites is sampled, as in `encode`.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.
        fields: as for `pvae.models.bind`.

    Returns:
        The codes by site, each of shape (batch, ...).
    """
    with inference_mode(latent_model, batch, fields) as programs:
        require_usable(batch)
        require_masks_taken(programs, batch)
        bound = programs.bound_to(batch)
        guide = SiteValueMessenger({}, (), draw=False)(programs.guide)
        sites = sample_sites(bound.with_programs(programs.model, guide).trace_guide())
    latent = [site for site in sites if not site["is_observed"]]
    if any(site["infer"].get("is_auxiliary") for site in latent):
        return encode(latent_model, batch, fields)
    return {site["name"]: site["value"] for site in latent}


def local_codes(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> dict[str, Tensor]:
    """Return `plausible_codes` of the sites with a value for each datum; a site that all data share is left out.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: as for `codes_of_data`.
    """
    codes = plausible_codes(latent_model, batch, fields)
    with inference_mode(latent_model, batch, fields) as programs:
        return codes_of_data(codes, programs.bound_to(batch))


def discrete_sites(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> dict[str, bool]:
    """Return the latent sites of the model with a discrete support; True for those with one-hot values.

    The values of a Bernoulli site are floating-point numbers, so their dtype does not show that it is discrete.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.
        fields: as for `pvae.models.bind`.
    """
    with inference_mode(latent_model, batch, fields) as programs:
        sites = sample_sites(programs.bound_to(batch).trace_both()[1])
    discrete = [site for site in sites if not site["is_observed"] and is_discrete(site)]
    return {site["name"]: "OneHot" in type(base_distribution(site["fn"])).__name__ for site in discrete}


def reconstruct(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> Tensor:
    """Return the mean of p(x given z) at one z per datum, in the shape of ``batch["x"]``.

    z is drawn from the guide. Summed-out sites of the model only are drawn from their exact posterior given x and z.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if the model observes nothing.
    """
    with inference_mode(latent_model, batch, fields) as programs:
        require_usable(batch)
        require_masks_taken(programs, batch)
        bound = programs.bound_to(batch)
        drawn = _summed_out_draws(bound)
        if drawn is None:
            trace = bound.trace_both()[1]
            data_sites = find_data_sites(sample_sites(trace), programs, bound)
        else:
            # with the draws inserted, latent sites are observed too
            data_sites = find_data_sites(sample_sites(bound.trace_model()), programs, bound)
            trace = bound.trace_model(values=drawn)
        return data_sites.joined({name: mean_of_site(trace.nodes[name]) for name in data_sites.names}, batch)


def summed_out_values(latent_model: Any, batch: Mapping[str, Tensor], fields: Fields = None) -> dict[str, Tensor]:
    """Return draws of the sites that the guide does not have and that are summed out, from their exact posterior.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: named tensors.
        fields: as for `pvae.models.bind`.

    Returns:
        The values by site, each of shape (batch, ...); empty if there is no such site.
    """
    with inference_mode(latent_model, batch, fields) as programs:
        bound = programs.bound_to(batch)
        drawn = _summed_out_draws(bound)
        if drawn is None:
            return {}
        in_guide = {site["name"] for site in sample_sites(bound.trace_guide())}
    return {name: value for name, value in drawn.items() if name not in in_guide}


def _summed_out_draws(bound: BoundPrograms) -> dict[str, Tensor] | None:
    """Return one draw of all latent sites, if the model sums out sites that are not in the guide."""
    return draw_latents(weights_of(bound.without_loss_terms(), 1)) if has_summed_sites(bound) else None
