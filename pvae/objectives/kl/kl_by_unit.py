"""The latent units of a batch, one by one: their KL terms, and their densities under other data's guides."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pvae.errors import InputError
from pvae.programs.sites import Site
from pvae.weights import LogWeights
from pvae.weights.traces import PARTICLE_PLATE, TracePair

__all__ = ["Latent", "kl_by_unit", "one_latent"]


@dataclass(frozen=True)
class Latent:
    """One latent site of one run: its messages in guide and model, and where its dimensions are.

    Attributes:
        guide: the guide's message.
        model: the model's.
        data_dim: the dimension of the data plate, from the right of the batch shape.
        particle_dim: that of the particles, or None where the run holds one.
    """

    guide: Site
    model: Site
    data_dim: int
    particle_dim: int | None

    def factor(self, site: Site) -> Any | None:
        """Return the density of one unit in `guide` or `model`, where units are independent; else None."""
        density = site["fn"]
        while isinstance(density, Independent):
            density = density.base_dist
        return density if density.event_shape == () else None

    def by_unit(self, values: Tensor, event_dim: int) -> Tensor:
        """Return values of the site's batch shape and `event_dim` more, as (particles, batch, units)."""
        axis = self.data_dim - event_dim
        if self.particle_dim is None:
            values, first = values.unsqueeze(0), 0
        else:
            first = self.particle_dim - event_dim
        moved = values.movedim((first, axis), (0, 1))
        return moved.reshape(*moved.shape[:2], -1)

    def log_prob(self, site: Site) -> Tensor:
        """Return log-densities by unit, or as a whole where they do not factorise, (particles, batch, units)."""
        one = self.factor(site)
        event_dim = site["fn"].event_dim if one is not None else 0
        return self.by_unit(_masked((one or site["fn"]).log_prob(site["value"]), site, event_dim), event_dim)


def _masked(log_prob: Tensor, site: Site, event_dim: int) -> Tensor:
    if site["mask"] is None:
        return log_prob
    mask = torch.as_tensor(site["mask"], device=log_prob.device)
    return torch.where(mask.reshape(mask.shape + (1,) * event_dim), log_prob, 0.0)


def _data_dim(guide: list[Site], model: list[Site], data_plate: str | None) -> int:
    """The dimension of the one plate of all sites that is not the particles', or of the one that is named."""
    frames = [{each.name: each.dim for each in site["cond_indep_stack"]} for site in guide + model]
    common = [name for name in frames[0] if name != PARTICLE_PLATE and all(name in each for each in frames)]
    return int(frames[0][data_plate or common[0]])


def _latents(draw: TracePair, data_plate: str | None) -> dict[str, Latent]:
    model = draw.model_sites
    dim = _data_dim(draw.latent_sites, model, data_plate)
    scored = {site["name"]: site for site in model}
    hidden = next((site["name"] for site in draw.latent_sites if site["name"] not in scored), None)
    if hidden is not None:
        raise InputError(f"Site {hidden!r} is auxiliary, so the KL has no parts by unit: use 'iwae'.")

    def of(site: Site) -> Latent:
        frames = {each.name: each.dim for each in site["cond_indep_stack"]}
        return Latent(site, scored[site["name"]], dim, frames.get(PARTICLE_PLATE))

    return {site["name"]: of(site) for site in draw.latent_sites}


def kl_by_unit(weights: LogWeights, data_plate: str | None) -> Mapping[str, Tensor]:
    """Return for each latent site the KL terms of its units, shape (particles, batch, units), nats, differentiable.

    A closed form holds where all that the prior may depend on was drawn before this site in the guide too: else (a
    chain that the guide walks upwards) the prior moves with the very z that is integrated out.
    """
    runs = [_latents(draw, data_plate) for draw in weights.draws]
    ours = list(runs[0])
    theirs = [site["name"] for site in weights.draws[0].model_sites if site["name"] in runs[0]]
    found = {}
    for name in ours:
        before = set(itertools.takewhile(name.__ne__, ours))
        closed = before.issuperset(itertools.takewhile(name.__ne__, theirs))
        found[name] = torch.cat([_kl(run[name], closed) for run in runs])
    return found


def _kl(latent: Latent, closed: bool) -> Tensor:
    q, p = latent.factor(latent.guide), latent.factor(latent.model)
    if q is None or p is None:
        return latent.log_prob(latent.guide).sum(-1, True) - latent.log_prob(latent.model).sum(-1, True)
    if closed and latent.guide["mask"] is None and latent.model["mask"] is None:
        try:
            kl = kl_divergence(q, p)
        except NotImplementedError:
            kl = None
        if kl is not None:
            return latent.by_unit(kl.expand(latent.guide["value"].shape), latent.guide["fn"].event_dim)
    return latent.log_prob(latent.guide) - latent.log_prob(latent.model)


def one_latent(weights: LogWeights, data_plate: str | None, objective: str) -> list[Latent]:
    """Return the only latent site, in each run that the weights were made of.

    Raises:
        InputError: if there are several.
    """
    runs = [_latents(draw, data_plate) for draw in weights.draws]
    if len(runs[0]) != 1:
        raise InputError(
            f"{objective} compares the draws of one latent site with its prior, and the guide has {len(runs[0])}: "
            f"{', '.join(runs[0])}. Join them to one site, or use 'beta' or 'free-bits'."
        )
    return [next(iter(run.values())) for run in runs]
