"""`CodeSite`: the latent site that gets a fitted prior, found from the programs of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.programs.binding import Fields
from pvae.programs.bound import BoundPrograms
from pvae.programs.queries import inference_mode
from pvae.programs.sites import Site, base_distribution, is_delta, is_discrete, log_density, sample_sites
from pvae.randomness import preserved_randomness

__all__ = ["CodeSite", "find_code_site"]

_NEEDS = "A fitted prior needs a model with one continuous latent site, layers of them, or one site of discrete codes"


@dataclass(frozen=True)
class CodeSite:
    """The latent site whose density is replaced.

    Attributes:
        name: the name of the site; the topmost one of several layers.
        shape: the event shape of the site: that of one z, or of the codes of one datum.
        codes: the number of codes if the values are codes 0 to codes - 1; 0 for real numbers.
        is_point: whether the guide returns a point without a density, as in an autoencoder.
    """

    name: str
    shape: tuple[int, ...]
    codes: int = 0
    is_point: bool = False

    @property
    def size(self) -> int:
        """The number of values of one datum."""
        return math.prod(self.shape)


def find_code_site(latent_model: Any, batch: Batch, fields: Fields) -> CodeSite:
    """Return the site of a latent model that gets the fitted prior.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        batch: at least two data, on the device of the model.
        fields: the batch fields of the programs.

    Raises:
        InputError: if there is no such site; the message names the sites and the reason.
    """
    with preserved_randomness(), inference_mode(latent_model, batch, fields) as programs:
        bound = programs.bound_to(batch)
        guide, model = bound.trace_both()
        guide_sites = {site["name"]: site for site in sample_sites(guide) if not site["is_observed"]}
        sites = [site for site in sample_sites(model) if not site["is_observed"]]
        if not sites:
            raise InputError(f"{_NEEDS}; this one has no latent site.")
        missing = [site["name"] for site in sites if site["name"] not in guide_sites]
        if missing or len(guide_sites) > len(sites):
            raise InputError(
                f"{_NEEDS}; model and guide of this one have different sites, {_names(sites)} and "
                f"{', '.join(guide_sites)}."
            )
        site = _topmost(sites, bound)
        _require_code_of_each_datum(site, batch.size)
        _require_same_density(site)
    codes = _count_codes(site)
    return CodeSite(site["name"], tuple(site["fn"].event_shape), codes, is_delta(guide_sites[site["name"]]))


def _names(sites: Sequence[Site]) -> str:
    return ", ".join(site["name"] for site in sites)


def _topmost(sites: Sequence[Site], bound: BoundPrograms) -> Site:
    """Return the first of several layers, or the only site; raise InputError for sites that are not layers."""
    first, *below = sites
    if not below:
        return first
    discrete = [site["name"] for site in sites if is_discrete(site)]
    if discrete:
        raise InputError(f"{_NEEDS}; this one has the sites {_names(sites)}, of which {discrete[0]} is discrete.")
    values = {site["name"]: site["value"] for site in sites}
    for number, site in enumerate(below, 1):
        above = sites[:number]
        moved = {each["name"]: each["value"].roll(1, 0) for each in above if each["value"].dim()}
        if not _depends_on(site, bound, values, moved):
            raise InputError(
                f"{_NEEDS}; this one has the sites {_names(sites)}, and they are not layers: the density of "
                f"{site['name']} does not depend on {_names(above)}."
            )
    return first


def _depends_on(site: Site, bound: BoundPrograms, values: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> bool:
    """Return whether the density of a site changes if the values of other sites move to the next datum."""
    before, after = (
        bound.trace_model(values={**values, **change}).nodes[site["name"]] for change in (dict[str, Tensor](), moved)
    )
    return not torch.equal(log_density(before), log_density(after))


def _require_code_of_each_datum(site: Site, size: int) -> None:
    """Raise InputError if a site has no vector for each datum, or its values are not on the whole real line."""
    name, distribution = site["name"], site["fn"]
    shape = tuple(distribution.batch_shape)
    if shape != (size,):
        raise InputError(
            f"A fitted prior needs one code for each datum; site {name} has batch shape {shape} for {size} data. Draw "
            "it within one plate over the data."
        )
    support = distribution.support
    while isinstance(support, constraints.independent | constraints.MixtureSameFamilyConstraint):
        support = support.base_constraint
    if not (is_discrete(site) or support in (constraints.real, constraints.real_vector)):
        raise InputError(
            f"A fitted prior needs real numbers of any size; site {name} has the support {support}. Transform the "
            "site, for example by a logarithm, and train again."
        )


def _require_same_density(site: Site) -> None:
    """Raise InputError if the density of a site differs between data, for example because it depends on a condition."""
    first = site["value"][:1].expand(site["value"].shape)
    log_prob = log_density({**site, "value": first})
    if not torch.allclose(log_prob, log_prob[:1].expand(log_prob.shape)):
        raise InputError(
            f"The density of {site['name']} depends on a condition of each datum, and a prior that is fitted to all "
            "codes would lose this. Use a model with the same prior for all data."
        )


def _count_codes(site: Site) -> int:
    """Return the number of codes of a categorical site; 0 for real numbers.

    Raises:
        InputError: for other discrete sites.
    """
    if not is_discrete(site):
        return 0
    base = base_distribution(site["fn"])
    if not isinstance(base, torch.distributions.Categorical) or len(site["fn"].event_shape) != 1:
        raise InputError(
            f"{_NEEDS}; site {site['name']} is discrete, a {type(base).__name__} with the event shape "
            f"{tuple(site['fn'].event_shape)}. Codes need a Categorical(...).to_event(1), with one code at each "
            "position."
        )
    return int(base.logits.shape[-1])
