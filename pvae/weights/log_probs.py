"""Log-densities of all sites, summed to one number for each particle and datum; enumerated sites are marginalised."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.sites import Site, sample_sites
from pvae.weights.enumeration import ENUMERATE, EnumerationDims
from pvae.weights.traces import TracePair, site_log_prob

__all__ = [
    "MarginalisedLogProbs",
    "PlateDims",
    "SiteLogProbs",
    "join_outcomes",
    "log_probs_by_site",
    "site_log_probs",
    "sum_tensors",
]


@dataclass(frozen=True)
class PlateDims:
    """The dimensions of particles and data in the log-density of a site.

    Attributes:
        nesting: the greatest number of nested plates; particles are at dimension ``-1 - nesting``.
        data_dim: the dimension of the data plate.
        particles: the number of particles of one run.
        left: the number of dimensions to the left of the particles.
    """

    nesting: int
    data_dim: int
    particles: int
    left: int = 0

    def reduce(self, log_prob: Tensor) -> Tensor:
        """Sum a log-density over all plates except those of particles and data.

        Args:
            log_prob: shape (*left, particles, *plates); dimensions on the left may be missing.

        Returns:
            Shape (*left, particles, batch), of size 1 in dimensions along which the site does not vary.
        """
        particle_dim = -1 - self.nesting
        if self.nesting > 1:
            first = max(-log_prob.dim(), particle_dim + 1)
            inner = [dim for dim in range(first, 0) if dim != self.data_dim]
            summed = log_prob.sum(inner) if inner else log_prob
        else:
            summed = log_prob
        if log_prob.dim() < -particle_dim:
            summed = summed.unsqueeze(0)
        missing = 2 + self.left - summed.dim()
        if missing > 0:
            summed = summed.reshape((1,) * missing + tuple(summed.shape))
        return summed.expand(*summed.shape[:-2], self.particles, -1)

    def expand_to_site(self, per_datum: Tensor, site: Site) -> Tensor:
        """Return numbers with the dimensions of a site's value, of size 1 except for particles and data.

        Args:
            per_datum: (particles, batch).
            site: a site of either program.
        """
        value: Tensor = site["value"]
        sizes = [1] * (1 + self.nesting)
        sizes[0], sizes[self.data_dim] = per_datum.shape
        wide = per_datum.reshape(*sizes, *(1,) * site["fn"].event_dim)
        return wide[0] if value.dim() < wide.dim() else wide


@dataclass(frozen=True)
class SiteLogProbs:
    """Log-densities by site, each of shape (*left, particles, batch) or of size 1 in a dimension on the left.

    Attributes:
        joint: log p by site of the model.
        guide: log q by site of the guide.
    """

    joint: Mapping[str, Tensor]
    guide: Mapping[str, Tensor]


def log_probs_by_site(runs: Sequence[Iterable[Site]], dims: PlateDims) -> dict[str, Tensor]:
    """Return the log-density of each site, shape (*left, particles, batch).

    Args:
        runs: the sample sites of each run of one program; the particles of all runs are concatenated.
        dims: the dimensions of particles and data.
    """
    tables = []
    for sites in runs:
        table = {}
        for site in sites:
            table[site["name"]] = dims.reduce(site_log_prob(site))
        tables.append(table)
    if len(tables) == 1:
        return tables[0]
    return {name: torch.cat([table[name] for table in tables], -2) for name in tables[0]}


def site_log_probs(pairs: Sequence[TracePair], dims: PlateDims, *, at_fixed_z: bool) -> SiteLogProbs:
    """Return the log-densities of all sites of both programs.

    Args:
        pairs: the runs of guide and model; the particles of all runs are concatenated.
        dims: the dimensions of particles and data.
        at_fixed_z: whether the guide is run again at its own z, detached.
    """
    runs = [sample_sites(pair.guide_at_fixed_z()) if at_fixed_z else pair.guide_sites for pair in pairs]
    guide = log_probs_by_site(runs, dims)
    return SiteLogProbs(joint=log_probs_by_site([pair.model_sites for pair in pairs], dims), guide=guide)


@dataclass(frozen=True)
class MarginalisedLogProbs:
    """Log-densities without summed-out sites, with enumerated sites on one dimension: (outcomes, particles, batch).

    Without enumerated sites the shape is (particles, batch).

    Attributes:
        log_joint: log p(x, z).
        log_guide: log q(z given x); if other sites depend on a summed-out site, the mean over its values.
        log_outcome: the log-probability of the values of the enumerated sites; None without such sites.
        guide: log q by site, without summed-out sites.
        joint: log p by site; empty if a site is summed out.
        beneath: the guide's sites that depend on a summed-out site.
    """

    log_joint: Tensor
    log_guide: Tensor
    log_outcome: Tensor | None
    guide: Mapping[str, Tensor]
    joint: Mapping[str, Tensor]
    beneath: tuple[str, ...] = ()


def sum_tensors(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors, broadcast to their common shape. There needs to be at least one tensor."""
    return functools.reduce(torch.add, terms)


def join_outcomes(
    log_joint: Tensor,
    log_guide: Tensor,
    log_probs: SiteLogProbs,
    dims: EnumerationDims,
    keep: int,
    beneath: Sequence[str] = (),
) -> MarginalisedLogProbs:
    """Join the dimensions of the sites that are enumerated for their gradient to one dimension of outcomes.

    Args:
        log_joint: log p(x, z), shape (*keep, *enumerated, particles, batch), like all other tables.
        log_guide: log q(z given x).
        log_probs: log-densities by site, without summed-out sites; log p is empty if there is a summed-out site.
        dims: the dimensions of enumerated sites.
        keep: the number of dimensions on the left that do not change.
        beneath: the guide's sites that depend on a summed-out site.

    Raises:
        InputError: if an enumerated site depends on a summed-out site of the guide.
    """
    if not dims.sites:
        return MarginalisedLogProbs(log_joint, log_guide, None, log_probs.guide, log_probs.joint)
    _require_one_probability(dims.names(ENUMERATE), beneath)
    join = _joiner(dims, keep)
    guide = {name: join(table) for name, table in log_probs.guide.items()}
    outcomes = [guide[name] for name in dims.names(ENUMERATE)]
    log_outcome = sum_tensors(outcomes) if outcomes else None

    def finish(table: Tensor) -> Tensor:
        return _without_impossible(join(table), log_outcome)

    return MarginalisedLogProbs(
        log_joint=finish(log_joint),
        log_guide=finish(log_guide),
        log_outcome=log_outcome,
        guide={name: _without_impossible(table, log_outcome) for name, table in guide.items()},
        joint={name: finish(table) for name, table in log_probs.joint.items()},
        beneath=tuple(beneath),
    )


def _require_one_probability(enumerated: Sequence[str], beneath: Sequence[str]) -> None:
    wrong = [name for name in enumerated if name in beneath]
    if wrong:
        raise InputError(
            f"Enumeration needs one probability for each value, but site {wrong[0]!r} depends on a summed-out site of "
            "the guide, so its values have several probabilities. Use 'score' for it, or enumerate both sites."
        )


def _joiner(dims: EnumerationDims, keep: int) -> Callable[[Tensor], Tensor]:
    """Return the function that joins the enumerated dimensions of a table to one.

    It maps shape (*keep, *enumerated, particles, batch) to (*keep, outcomes, particles, batch).
    """
    sizes = dims.sizes(ENUMERATE)

    def join(table: Tensor) -> Tensor:
        if not sizes:
            return table
        left, right = table.shape[:keep], table.shape[-2:]
        return table.expand(*left, *sizes, *right).reshape(*left, -1, *right)

    return join


def _without_impossible(table: Tensor, log_outcome: Tensor | None) -> Tensor:
    """Return a table with 0 for values of probability 0: their infinite log weight times 0 would be nan."""
    return table if log_outcome is None else table.masked_fill(log_outcome == -math.inf, 0.0)
