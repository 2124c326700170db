"""Pyro's check of the shapes of sites, with the site and all shapes in its message."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import poutine
from pyro.util import check_site_shape

from pvae.data.support import check_support
from pvae.errors import InputError, whole_reason
from pvae.programs.site_masks import is_masked, mask_of_site
from pvae.programs.sites import Site, sample_sites

__all__ = ["SiteShapeError", "check_site_shapes"]


class SiteShapeError(InputError):
    """A value does not fit its distribution, or the batch shape of a log-density differs from the plates of its site.

    Args:
        message: Pyro's reason and remedies, and all shapes of the site.
        site: the name of the site.
    """

    def __init__(self, message: str, site: str) -> None:
        super().__init__(message)
        self.site = site


def check_site_shapes(guide: poutine.Trace, model: poutine.Trace) -> None:
    """Check with Pyro that the batch shape of each log-density is the shape of the plates of its site.

    Args:
        guide: a trace of the guide, without particles and without enumerated sites.
        model: such a trace of the model.

    Raises:
        SiteShapeError: with the reason of torch or Pyro, and all shapes of the site.
        InputError: if an observed value is outside the support of its likelihood.
    """
    for program, trace in (("guide", guide), ("model", model)):
        for site in sample_sites(trace):
            density: Any = site["fn"]
            try:
                log_prob = density.log_prob(site["value"])
            except NotImplementedError:  # a likelihood under `pyro.infer.EnergyDistance` need not have a density
                continue
            except ValueError:  # Pyro's error for a value outside the support prints the whole tensor
                if site["is_observed"]:
                    check_support(site["name"], site["value"], density, mask_of_site(site) if is_masked(site) else None)
                raise
            except RuntimeError as error:
                if _fits(site):
                    raise
                shapes = _describe_shapes(site, program, whole_reason(error))
                raise SiteShapeError(f"{shapes} Reshape the value or the distribution.", site["name"]) from error
            try:
                # with an infinite nesting, no dimension is allowed to the left of the plates
                check_site_shape(site.copy() | {"log_prob": log_prob}, math.inf)  # type: ignore[arg-type]
            except ValueError as error:
                raise SiteShapeError(_describe_shapes(site, program, whole_reason(error)), site["name"]) from error


def _fits(site: Site) -> bool:
    """Return whether the value of a site broadcasts with the shape of its distribution."""
    density: Any = site["fn"]
    try:
        torch.broadcast_shapes(site["value"].shape, density.batch_shape + density.event_shape)
    except RuntimeError:
        return False
    return True


def _describe_shapes(site: Site, program: str, reason: str) -> str:
    """Return Pyro's reason, with the shapes of the distribution and of the value."""
    batch, event, value = list(site["fn"].batch_shape), list(site["fn"].event_shape), list(site["value"].shape)
    sizes = {frame.name: frame.size for frame in site["cond_indep_stack"] if frame.dim is not None}
    plates = ", ".join(f"plate {name!r} of size {size}" for name, size in sizes.items()) or "no plate"
    return (
        f"{reason}. In the {program}, site {site['name']!r} is in {plates}; its distribution has the batch shape "
        f"{batch} and the event shape {event}, and its value has the shape {value}."
    )
