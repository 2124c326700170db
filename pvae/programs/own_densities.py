"""The densities of a guide's Delta sites that are transforms of single draws."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch.distributions.transforms import identity_transform

from pvae.programs.bijections import Bijection, chart_of
from pvae.programs.sites import Site, sample_sites

__all__ = ["with_own_densities"]


def with_own_densities(guide: poutine.Trace, model: poutine.Trace, bijection: Bijection) -> dict[str, Site]:
    """Return the latent sites of a guide by name, without one-to-one auxiliary draws, and each with a density.

    A Delta site that is the transform of one draw u to its support gets the density of the transformed u, as if the
    guide drew it directly. A Delta site of several draws, or of another map, has no such density and is left out.

    Args:
        guide: a trace of the guide.
        model: a trace of the model, whose sites have the supports.
        bijection: the sites of the map.
    """
    sites: dict[str, Site] = {}
    for site in sample_sites(guide):
        name = site["name"]
        if site["is_observed"] or name in bijection.auxiliary:
            continue
        if name in bijection.partners:
            density = _transformed(guide.nodes[bijection.partners[name]], chart_of(model.nodes[name]))
            sites[name] = site.copy() | {"fn": density}
        elif name not in bijection.points:
            sites[name] = site
    return sites


def _transformed(draw: Site, chart: torch.distributions.Transform) -> Any:
    """Return the distribution of the transform of a draw, with independent units if both allow it."""
    density, unit_chart, dims = draw["fn"], chart, 0
    while isinstance(density, torch.distributions.Independent):
        dims += density.reinterpreted_batch_ndims
        density = density.base_dist
    while isinstance(unit_chart, torch.distributions.IndependentTransform):
        unit_chart = unit_chart.base_transform
    if unit_chart.domain.event_dim or density.event_shape:
        return dist.TransformedDistribution(draw["fn"], [chart])
    if unit_chart != identity_transform:
        density = dist.TransformedDistribution(density, [unit_chart])
    return density.to_event(dims)
