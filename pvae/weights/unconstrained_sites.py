"""The continuous latent sites of a model as one vector of unconstrained numbers for each particle and datum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import MixtureSameFamilyConstraint

from pvae.errors import InputError
from pvae.programs.site_masks import require_every_entry
from pvae.programs.sites import Site, base_distribution, is_delta, is_discrete

__all__ = ["FreeSite", "FreeValues", "UnconstrainedLayout", "find_free_sites", "transform_of"]

#: Distributions of angles. Their support is all real numbers, and their density is periodic, so it has no integral.
_PERIODIC = (dist.VonMises, dist.VonMises3D, dist.SineBivariateVonMises, dist.SineSkewed, dist.ProjectedNormal)


@dataclass(frozen=True)
class FreeSite:
    """A continuous latent site.

    Attributes:
        name: the site.
        plates: the sizes of its plates from left to right, without the plate of the particles; 1 for a dimension
            without a plate.
        event: the shape of one unconstrained event; a simplex of K numbers has K - 1.
    """

    name: str
    plates: tuple[int, ...]
    event: tuple[int, ...]


@dataclass(frozen=True)
class UnconstrainedLayout:
    """The places of the continuous latent sites in a vector of unconstrained numbers.

    Attributes:
        sites: the sites, in the order of the model.
        data_dim: the dimension of the plate over data, counted from the right of a batch shape.
    """

    sites: tuple[FreeSite, ...]
    data_dim: int

    def _place_of_data(self, site: FreeSite) -> int:
        """Return the dimension of the data in a value of shape (particles, *plates, *event)."""
        return 1 + len(site.plates) + self.data_dim

    def split(self, numbers: Tensor) -> dict[str, Tensor]:
        """Return the unconstrained value of each site, shape (particles, *plates, *event).

        Args:
            numbers: shape (particles, batch, numbers).
        """
        values = {}
        start = 0
        for site in self.sites:
            place = self._place_of_data(site)
            inner = [*site.plates[: place - 1], *site.plates[place:], *site.event]
            size = torch.Size(inner).numel()
            part = numbers[..., start : start + size].reshape(*numbers.shape[:2], *inner)
            values[site.name] = part.movedim(1, place)
            start += size
        return values

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the unconstrained values of all sites, shape (particles, batch, numbers).

        Args:
            values: by site, shape (particles, *plates, *event).
        """
        parts = [values[site.name].movedim(self._place_of_data(site), 1) for site in self.sites]
        return torch.cat([part.reshape(*part.shape[:2], -1) for part in parts], -1)


def transform_of(site: Site) -> torch.distributions.Transform:
    """Return the map from unconstrained values to the support of a site.

    Raises:
        InputError: if there is no such map.
    """
    try:
        support = site["fn"].support
        if isinstance(support, MixtureSameFamilyConstraint):  # all components have the same support
            support = support.base_constraint
        transform: torch.distributions.Transform = biject_to(support)
    except (AttributeError, NotImplementedError) as error:
        raise InputError(
            f"Annealing changes z in unconstrained coordinates, which need a known support; site {site['name']!r} "
            f"({type(base_distribution(site['fn'])).__name__}) has none. Give its distribution a support for which "
            "torch.distributions.biject_to has a transform."
        ) from error
    return transform


def _require_density(site: Site) -> None:
    """Raise InputError for a latent site without a density for the moves.

    Raises:
        InputError: with the name of the site.
    """
    if is_delta(site):
        raise InputError(
            f"Annealing needs a density for each latent site of the model; site {site['name']!r} is a Delta. Use "
            "pyro.deterministic for a value that follows from others, or estimate with log_evidence."
        )
    base = base_distribution(site["fn"])
    while isinstance(base, torch.distributions.MixtureSameFamily):
        base = base_distribution(base.component_distribution)
    if isinstance(base, _PERIODIC):
        raise InputError(
            f"Annealing needs a density on unconstrained numbers; site {site['name']!r} is an angle, which has many "
            "values for each direction. Estimate with log_evidence (method 'is')."
        )
    require_every_entry(site, "Annealing")


def find_free_sites(sites: list[Site], nesting: int, data_dim: int) -> UnconstrainedLayout:
    """Return the places of the continuous latent sites of a model; discrete sites of finite support have no place.

    Args:
        sites: the sample sites of a run of the model for one particle.
        nesting: the greatest number of nested plates.
        data_dim: the dimension of the plate over data.

    Raises:
        InputError: if a latent site is a point, is masked, or is discrete without a finite support; or if no latent
            site is continuous.
    """
    free = []
    for site in sites:
        if site["is_observed"]:
            continue
        _require_density(site)
        if is_discrete(site):
            require_finite(site)
        else:
            free.append(_free_site(site, nesting))
    if not free:
        raise InputError(
            "Annealing needs a continuous latent site; all latent sites of this model are discrete. Mark them with "
            "infer={'enumerate': 'parallel'}: log_evidence then sums them out, and is exact."
        )
    return UnconstrainedLayout(tuple(free), data_dim)


def _free_site(site: Site, nesting: int) -> FreeSite:
    value = transform_of(site).inv(site["value"])
    batch = tuple(site["fn"].batch_shape)
    return FreeSite(site["name"], (1,) * (nesting - len(batch)) + batch, tuple(value.shape[len(batch) :]))


def require_finite(site: Site) -> None:
    """Raise InputError for a discrete latent site with values that cannot be listed.

    Raises:
        InputError: with the name of the site.
    """
    base = base_distribution(site["fn"])
    if not getattr(base, "has_enumerate_support", False):
        raise InputError(
            f"Annealing sums discrete latent sites out, but site {site['name']!r} ({type(base).__name__}) has no "
            "finite support. Estimate with log_evidence (method 'is')."
        )


class FreeValues(Messenger):
    """Gives the continuous latent sites of a model the values at unconstrained numbers.

    Args:
        values: the unconstrained value by site, shape (particles, *plates, *event).
        nesting: the greatest number of nested plates.

    Attributes:
        constrained: the values that the sites got, by site.
        log_volumes: log |det dz/du| by site, shape (particles, *plates).
    """

    def __init__(self, values: Mapping[str, Tensor], nesting: int) -> None:
        super().__init__()
        self.values, self.nesting = values, nesting
        self.constrained: dict[str, Tensor] = {}
        self.log_volumes: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.values or msg["is_observed"]:
            return
        free, event_dim = self.values[name], msg["fn"].event_dim
        own_dims = len(msg["fn"].batch_shape) + free.dim() - (1 + self.nesting)
        while free.dim() > own_dims and free.shape[0] == 1:
            free = free.squeeze(0)
        transform = transform_of(msg)
        value = transform(free)
        batch = free.shape[: free.dim() - (self.values[name].dim() - 1 - self.nesting)]
        if value.shape[: value.dim() - event_dim] != batch:
            raise InputError(
                f"The support of site {name!r} depends on a discrete site that annealing sums out, so z would differ "
                "for each of its values. Estimate with log_evidence."
            )
        volume = transform.log_abs_det_jacobian(free, value)
        self.log_volumes[name] = volume.flatten(len(batch)).sum(-1) if volume.dim() > len(batch) else volume
        self.constrained[name] = value
        msg["value"], msg["done"] = value, True
