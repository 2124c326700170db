"""Latent sites on a sphere: their densities are per surface area, and those of other sites per volume."""

from __future__ import annotations

import pyro.distributions as dist

from pvae.errors import InputError
from pvae.programs.sites import Site, base_distribution, is_delta

__all__ = ["have_comparable_densities", "is_on_sphere", "require_comparable_densities"]


def is_on_sphere(site: Site) -> bool:
    """Return whether the support of a site is a sphere, also that of all components of a mixture."""
    try:
        support = base_distribution(site["fn"]).support
    except (AttributeError, NotImplementedError):
        return False
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return isinstance(support, type(dist.constraints.sphere))


def have_comparable_densities(guide_site: Site, model_site: Site) -> bool:
    """Return whether both densities of a site are per surface area, or both are not; a Delta has no density."""
    return is_delta(guide_site) or is_on_sphere(guide_site) == is_on_sphere(model_site)


def require_comparable_densities(guide_site: Site, model_site: Site) -> None:
    """Refuse a site that is on a sphere in one program only, where log p - log q is no number of nats.

    Raises:
        InputError: with the name of the site.
    """
    if have_comparable_densities(guide_site, model_site):
        return
    where, other = ("guide", "model") if is_on_sphere(guide_site) else ("model", "guide")
    raise InputError(
        f"Site {guide_site['name']!r} is on a sphere in the {where} and not in the {other}, so its densities are per "
        "surface area and per volume, and cannot be compared. Use prior='sphere' with posterior='von-mises-fisher', or "
        "neither."
    )
