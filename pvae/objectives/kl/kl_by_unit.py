"""The KL terms of the latent units of a batch, and the one latent site of objectives of the aggregate posterior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.own_densities import with_own_densities
from pvae.programs.site_masks import is_switched_off, require_no_mask
from pvae.programs.sites import Site
from pvae.weights import LogWeights
from pvae.weights.kl import kl_of_site, prior_is_fixed
from pvae.weights.traces import PARTICLE_PLATE, TracePair

__all__ = ["LatentSite", "kl_by_unit", "kl_of_units", "only_latent_site"]


@dataclass(frozen=True)
class LatentSite:
    """One latent site of one run of both programs.

    Attributes:
        guide: the site in the guide's trace.
        model: the site in the model's trace.
        data_dim: the dimension of the data plate, from the right of the batch shape.
        particle_dim: the dimension of the particles; None if the run holds one particle.
    """

    guide: Site
    model: Site
    data_dim: int
    particle_dim: int | None

    def by_unit(self, values: Tensor, event_dim: int) -> Tensor:
        """Return values of the site as (particles, batch, units).

        Args:
            values: the batch shape of the site and `event_dim` more dimensions.
            event_dim: the number of dimensions to the right of the batch shape.
        """
        data_axis = self.data_dim - event_dim
        if self.particle_dim is None:
            values = values.unsqueeze(0)
            particle_axis = 0
        else:
            particle_axis = self.particle_dim - event_dim
        moved = values.movedim((particle_axis, data_axis), (0, 1))
        return moved.reshape(*moved.shape[:2], -1)

    def kl(self, is_fixed: bool) -> tuple[Tensor, bool]:
        """Return the KL terms of the units, and whether they are in closed form.

        The terms have shape (particles, batch, units), in nats; there is one unit if the units do not factorise.

        Args:
            is_fixed: whether the closed form is right, see `pvae.weights.kl.prior_is_fixed`.
        """
        kl = kl_of_site(self.guide, self.model, is_fixed)
        terms = self.by_unit(kl.terms, kl.event_dim(self.guide))
        return terms.sum(-1, True) if kl.is_whole else terms, kl.is_closed


def _frame_dims(site: Site) -> dict[str, int | None]:
    """Return the dimension of each plate of a site, by the name of the plate."""
    return {frame.name: frame.dim for frame in site["cond_indep_stack"]}


def _data_dim(sites: list[Site], data_plate: str | None) -> int:
    """Return the dimension of the data plate: the named plate, else the plate of all sites that is not the particles.

    Args:
        sites: the latent sites of the guide and all sites of the model.
        data_plate: the name of the plate, or None.
    """
    dims_by_site = [_frame_dims(site) for site in sites]
    first = dims_by_site[0]
    common = [name for name in first if name != PARTICLE_PLATE and all(name in dims for dims in dims_by_site)]
    dim = first[data_plate or common[0]]
    if dim is None:
        raise InputError("KL terms by unit need a vectorised data plate. Write `with pyro.plate(...)`.")
    return dim


def _latent_sites(pair: TracePair, data_plate: str | None) -> dict[str, LatentSite]:
    """Return the latent sites of one run, by name in the order of the guide, without sites that are masked out."""
    model_sites = {site["name"]: site for site in pair.model_sites}
    guide_sites = with_own_densities(pair.guide, pair.model, pair.bijection)
    auxiliary = [name for name in guide_sites if name not in model_sites]
    without_density = [name for name in pair.bijection.points if name not in guide_sites]
    if auxiliary or without_density:
        reason = "is auxiliary" if auxiliary else "is a function of auxiliary draws, without a known density"
        raise InputError(
            "KL terms by unit need latent sites of both programs with densities; site "
            f"{(auxiliary + without_density)[0]!r} {reason}. Use 'iwae'."
        )
    data_dim = _data_dim([*guide_sites.values(), *pair.model_sites], data_plate)
    latent_sites = {}
    for site in guide_sites.values():
        if is_switched_off(site) and is_switched_off(model_sites[site["name"]]):
            continue
        particle_dim = _frame_dims(site).get(PARTICLE_PLATE)
        latent_sites[site["name"]] = LatentSite(site, model_sites[site["name"]], data_dim, particle_dim)
    return latent_sites


def kl_by_unit(weights: LogWeights, data_plate: str | None) -> Mapping[str, Tensor]:
    """Return the KL terms of the units of each latent site, shape (particles, batch, units), nats, differentiable.

    Args:
        weights: the weights of a batch.
        data_plate: the name of the plate over data, if several plates hold every site.

    Raises:
        InputError: if a site is auxiliary or enumerated, or a map of several auxiliary draws.
    """
    return kl_of_units(weights, data_plate)[0]


def kl_of_units(weights: LogWeights, data_plate: str | None) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return the KL terms as `kl_by_unit`, and the sites with a KL that depends on draws.

    The KL depends on draws if it has no closed form. It may also depend on them if the guide draws another site before:
    the closed form is then for the densities given this draw.

    Args:
        weights: the weights of a batch.
        data_plate: the name of the plate over data, if several plates hold every site.

    Raises:
        InputError: if a site is auxiliary or enumerated.
    """
    runs = [_latent_sites(pair, data_plate) for pair in weights.draws]
    first = weights.draws[0]
    guide_order = [site["name"] for site in first.latent_sites]
    model_order = [site["name"] for site in first.model_sites if site["name"] in guide_order]
    by_site, sampled = {}, []
    for name in runs[0]:
        is_fixed = prior_is_fixed(name, guide_order, model_order)
        terms = [run[name].kl(is_fixed) for run in runs]
        by_site[name] = torch.cat([kl for kl, _ in terms])
        if name != guide_order[0] or not all(is_closed for _, is_closed in terms):
            sampled.append(name)
    return by_site, tuple(sampled)


def only_latent_site(weights: LogWeights, data_plate: str | None, objective: str) -> list[LatentSite]:
    """Return the only latent site, in each run of the weights.

    Args:
        weights: the weights of a batch.
        data_plate: the name of the plate over data, if several plates hold every site.
        objective: the name of the objective, for the error.

    Raises:
        InputError: if there are several latent sites, or the site is masked.
    """
    runs = [_latent_sites(pair, data_plate) for pair in weights.draws]
    if len(runs[0]) != 1:
        raise InputError(
            f"{objective} needs a guide with one latent site; this guide has "
            f"{len(runs[0])}: {', '.join(runs[0])}. Join them to one site, or use 'beta' or 'free-bits'."
        )
    sites = [next(iter(run.values())) for run in runs]
    require_no_mask(sites[0].guide, objective)
    return sites
