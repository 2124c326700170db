"""Latent sites on a sphere: their densities are per surface area; densities of other sites are per volume."""

from __future__ import annotations

import pyro.distributions as dist

from pvae.errors import InputError
from pvae.programs.sites import Site, is_delta

__all__ = ["have_comparable_densities", "require_comparable_densities"]


_SPHERE = type(dist.constraints.sphere)


def _are_on_sphere(sites: tuple[Site, ...]) -> list[bool]:
    """Return for each site whether its support is a sphere, including mixtures on a sphere."""
    found = []
    for site in sites:  # in one function, because each step of a training calls it
        try:
            support = site["fn"].support
        except (AttributeError, NotImplementedError):
            support = None
        while hasattr(support, "base_constraint"):
            support = support.base_constraint
        found.append(isinstance(support, _SPHERE))
    return found


def have_comparable_densities(guide_site: Site, model_site: Site) -> bool:
    """Return whether both densities of a site are per surface area, or both are not; a Delta has no density."""
    in_guide, in_model = _are_on_sphere((guide_site, model_site))
    return in_guide == in_model or is_delta(guide_site)


def require_comparable_densities(guide_site: Site, model_site: Site) -> None:
    """Raise InputError for a site that is on a sphere in one program only: log p - log q is then meaningless.

    Raises:
        InputError: with the name of the site.
    """
    in_guide, in_model = _are_on_sphere((guide_site, model_site))
    if in_guide == in_model or is_delta(guide_site):
        return
    where, other = ("guide", "model") if in_guide else ("model", "guide")
    raise InputError(
        f"Site {guide_site['name']!r} is on a sphere in the {where} but not in the {other}, so its densities are per "
        "surface area and per volume, and cannot be compared. Use prior='sphere' with posterior='von-mises-fisher', or "
        "neither."
    )
