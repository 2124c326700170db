"""The KL divergence of a latent site from guide to prior, unit by unit: in closed form, or from the draw."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pvae.programs.sites import Site, base_distribution
from pvae.weights.sphere_sites import require_comparable_densities

__all__ = ["ANALYTIC", "ANALYTIC_WHOLE", "SAMPLED", "WHOLE", "SiteKL", "kl_of_site", "prior_is_fixed", "unit_density"]

#: the methods of a KL divergence: in closed form, by unit or for the whole site; or from the draw, by unit or whole
ANALYTIC, ANALYTIC_WHOLE, SAMPLED, WHOLE = "analytic", "analytic-whole", "sampled", "whole"


@dataclass(frozen=True)
class SiteKL:
    """The KL terms of one latent site, in nats, differentiable.

    Attributes:
        how: `ANALYTIC`, `ANALYTIC_WHOLE`, `SAMPLED` or `WHOLE`.
        terms: the shape of the site's value; for a whole site, the batch shape of the site.
    """

    how: str
    terms: Tensor

    @property
    def is_closed(self) -> bool:
        """Whether it is in closed form."""
        return self.how in (ANALYTIC, ANALYTIC_WHOLE)

    @property
    def is_whole(self) -> bool:
        """Whether the site has one term, because its units are not independent."""
        return self.how in (ANALYTIC_WHOLE, WHOLE)

    def event_dim(self, site: Site) -> int:
        """Return the number of dimensions of `terms` to the right of the batch shape of the site."""
        return 0 if self.is_whole else int(site["fn"].event_dim)


def unit_density(density: Any) -> Any | None:
    """Return the distribution of one unit if the units of a distribution are independent, else None.

    Only `Independent` is unwrapped. A masked distribution counts as a whole, because its units have no density without
    the mask.
    """
    while isinstance(density, Independent):
        density = density.base_dist
    return density if density.event_shape == () else None


def prior_is_fixed(name: str, guide_order: Sequence[str], model_order: Sequence[str]) -> bool:
    """Return whether the guide draws a site after all sites that the site's prior may depend on.

    Only then is the closed-form KL divergence right. Otherwise (in a chain that the guide draws in the opposite order)
    the prior changes with the z that the closed form integrates over.

    Args:
        name: a latent site of both programs.
        guide_order: the latent sites in the order of the guide.
        model_order: the latent sites in the order of the model.
    """
    drawn_before = set(itertools.takewhile(name.__ne__, guide_order))
    return drawn_before.issuperset(itertools.takewhile(name.__ne__, model_order))


def kl_of_site(guide: Site, model: Site, is_fixed: bool) -> SiteKL:
    """Return the KL terms of a latent site: the closed form if there is one, else log q - log p at the draw.

    Args:
        guide: the site in a trace of the guide.
        model: the site in a trace of the model at the guide's draws.
        is_fixed: whether the prior does not depend on the site itself, see `prior_is_fixed`.

    Raises:
        InputError: if the site is on a sphere in one program only.
    """
    require_comparable_densities(guide, model)
    q = unit_density(guide["fn"])
    p = unit_density(model["fn"])
    if q is None or p is None:
        whole = _closed_form_of_site(guide, model) if is_fixed else None
        if whole is not None:
            return SiteKL(ANALYTIC_WHOLE, whole)
        log_q = _masked(guide["fn"].log_prob(guide["value"]), guide, 0)
        return SiteKL(WHOLE, log_q - _masked(model["fn"].log_prob(model["value"]), model, 0))
    if is_fixed and guide["mask"] is None and model["mask"] is None:
        try:
            return SiteKL(ANALYTIC, _closed_form(q, p, guide["value"]).expand(guide["value"].shape))
        except NotImplementedError:
            pass
    log_q = _masked(q.log_prob(guide["value"]), guide, guide["fn"].event_dim)
    log_p = _masked(p.log_prob(model["value"]), model, model["fn"].event_dim)
    return SiteKL(SAMPLED, log_q - log_p)


def _closed_form_of_site(guide: Site, model: Site) -> Tensor | None:
    """Return the KL divergence of a site with dependent units, of its batch shape; None without a closed form."""
    densities = guide["fn"], model["fn"]
    if guide["mask"] is not None or model["mask"] is not None:
        return None
    if any(isinstance(density, Independent | MaskedDistribution) for density in densities):
        return None
    try:
        kl: Tensor = kl_divergence(*densities)
    except NotImplementedError:
        return None
    return kl.expand(guide["value"].shape[: guide["value"].dim() - guide["fn"].event_dim])


def _closed_form(q: Any, p: Any, value: Tensor) -> Tensor:
    """Return the KL divergence of two densities of one unit if both count, else log q - log p at the draw.

    A density that a mask leaves out counts as log q = 0 or log p = 0, as in the weights. Pyro's own divergence of
    masked densities is the number 0.0 for ``mask(False)``, and 0 if either of two masks leaves out a unit.
    """
    masks = [density._mask for density in (q, p) if isinstance(density, MaskedDistribution)]
    kl: Tensor = kl_divergence(base_distribution(q), base_distribution(p))
    for mask in masks:
        kl = torch.where(torch.as_tensor(mask, device=kl.device), kl, q.log_prob(value) - p.log_prob(value))
    return kl


def _masked(log_prob: Tensor, site: Site, event_dim: int) -> Tensor:
    """Return a log-density with 0 at masked entries of the site.

    Args:
        log_prob: the batch shape of the site and `event_dim` more dimensions.
        site: the site with its mask.
        event_dim: the number of dimensions to the right of the batch shape.
    """
    if site["mask"] is None:
        return log_prob
    mask = torch.as_tensor(site["mask"], device=log_prob.device)
    return torch.where(mask.reshape(mask.shape + (1,) * event_dim), log_prob, 0.0)
