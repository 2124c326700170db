"""Draws of all latent sites; sites that the weights sum out are drawn from their exact posterior."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pvae.programs.sites import Site
from pvae.weights.auxiliary import log_marginal
from pvae.weights.base import LogWeights
from pvae.weights.contraction import Factor, align, named, select
from pvae.weights.enumeration import SUMMED
from pvae.weights.summed_sites import SummedSites

__all__ = ["draw_latents"]

_EVENT = chr(0xFF)  # before the letters of `SummedSites`


def draw_latents(weights: LogWeights) -> dict[str, Tensor]:
    """Return one draw of each latent site, with the sites that the weights sum out.

    A site of the guide has the value that the guide drew. Summed-out sites of both programs are drawn jointly from
    their posterior given all other sites, like by `pyro.infer.infer_discrete`. If a site z of the guide depends on a
    summed-out site y, the guide drew one z for each y; then y is drawn in proportion to p(x, y, z_y) / q(z_y given x,
    y), and z is z_y. So the draws, weighted by their log weights, follow the posterior.

    Args:
        weights: weights of one particle, from runs of the programs in which sites are drawn or summed out.

    Returns:
        The values by site, in their own shapes: (*plates, *event), without a dimension of particles.

    Raises:
        InputError: if no value of a summed-out site has a probability above 0.
    Source: Obermeyer et al., Tensor Variable Elimination for Plated Factor Graphs, arXiv:1902.03210, section 3.2
        (sampling).
    """
    values = {name: value[0] for name, value in weights.values.items()}
    source = weights.only_source()
    pair = source.pairs[0]
    if not (pair.dims.sites and pair.dims.names(SUMMED)):
        return values
    sites = SummedSites(pair, source.dims)
    log_guide = log_marginal(pair, source.dims, source.auxiliary)[0] if pair.auxiliary_sites else None
    drawn = sites.draw_values(log_guide)
    in_guide = {site["name"] for site in pair.latent_sites}
    latent = [(site, False) for site in pair.latent_sites]
    latent += [(site, True) for site in pair.model_sites if not site["is_observed"] and site["name"] not in in_guide]
    for site, in_model in latent:
        if site["name"] not in values:
            values[site["name"]] = _value(sites, site, in_model, drawn)
    return values


def _value(sites: SummedSites, site: Site, in_model: bool, drawn: Mapping[str, Factor]) -> Tensor:
    """Return the value of a site at the drawn values of summed-out sites, shape (*plates, *event)."""
    event_dim, value = site["fn"].event_dim, site["value"]
    event = value.shape[value.dim() - event_dim :]
    letters, _ = sites.letters(site, in_model=in_model)
    batch = value.shape[: value.dim() - event_dim]
    wide = [dim for dim in range(-len(batch), 0) if batch[dim] > 1]
    names = "".join([letters[dim] for dim in wide])
    factor = named(value.reshape([*[batch[dim] for dim in wide], event.numel()]), names + _EVENT)
    for name in names:
        if name in drawn:
            factor = select(factor, name, drawn[name])
    depth = max([-frame.dim for frame in site["cond_indep_stack"] if frame.vectorized], default=0)
    plates = range(-depth, 0)
    table = align(factor, [*[letters.get(dim, "") for dim in plates], _EVENT])
    sizes = _sizes(site, depth)
    return table.expand(*sizes, -1).reshape(*sizes, *event)


def _sizes(site: Site, depth: int) -> list[int]:
    """Return the sizes of the plates of a site by dimension, the leftmost first; 1 for a dimension without a plate."""
    sizes = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}
    return [sizes.get(dim, 1) for dim in range(-depth, 0)]
