"""Log-densities of all sites, summed to one number per particle and datum."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from pyro import poutine
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.layout import Site, sample_sites
from pvae.weights.handlers import ENUMERATE, SUMMED, Axes
from pvae.weights.traces import Draw, site_log_prob

__all__ = ["Collapsed", "Shape", "Tables", "by_site", "collapse", "tabulate", "total"]


@dataclass(frozen=True)
class Shape:
    """Where particles and data lie in a site's log-density.

    Attributes:
        nesting: the greatest number of nested plates; particles are at dimension ``-1 - nesting``.
        data_dim: the dimension of the data plate.
        particles: the number of particles of one run.
        left: the number of dimensions left of the particles'.
    """

    nesting: int
    data_dim: int
    particles: int
    left: int = 0

    def reduce(self, log_prob: Tensor) -> Tensor:
        """Sum over all plates but two: shape (*left, particles, batch), of size 1 where a site does not vary."""
        particle_dim = -1 - self.nesting
        rest = [dim for dim in range(max(-log_prob.dim(), particle_dim + 1), 0) if dim != self.data_dim]
        has_particles = log_prob.dim() >= -particle_dim
        summed = log_prob.sum(rest) if rest else log_prob
        summed = summed if has_particles else summed.unsqueeze(0)
        if summed.dim() < 2 + self.left:
            summed = summed.reshape((1,) * (2 + self.left - summed.dim()) + tuple(summed.shape))
        return summed.expand(*summed.shape[:-2], self.particles, -1)

    def spread(self, per_datum: Tensor, site: Site) -> Tensor:
        """Return numbers of shape (particles, batch) in the shape of a site's value, of size 1 in other dimensions."""
        value: Tensor = site["value"]
        sizes = [1] * (1 + self.nesting)
        sizes[0], sizes[self.data_dim] = per_datum.shape
        wide = per_datum.reshape(*sizes, *(1,) * site["fn"].event_dim)
        return wide[0] if value.dim() < wide.dim() else wide


@dataclass(frozen=True)
class Tables:
    """Log-densities by site, each of shape (*left, particles, batch) or of size 1 in a dimension on the left.

    Attributes:
        joint: log p by site of the model.
        guide: log q by site of the guide.
    """

    joint: Mapping[str, Tensor]
    guide: Mapping[str, Tensor]


def by_site(traces: list[poutine.Trace], shape: Shape) -> dict[str, Tensor]:
    """Return the log-densities of the sites of traces of one program, joined along the particles."""

    def of(name: str) -> Tensor:
        sites: list[Site] = [trace.nodes[name] for trace in traces]
        parts = [shape.reduce(site_log_prob(site)) for site in sites]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -2)

    return {site["name"]: of(site["name"]) for site in sample_sites(traces[0])}


def tabulate(draws: list[Draw], shape: Shape) -> Tables:
    """Return the log-densities of all sites of both programs."""
    guide = by_site([draw.guide for draw in draws], shape)
    # q of a summed-out site cancels, so where it is 0 it may be anything finite
    for name in draws[0].axes.names(SUMMED):
        if name in guide:
            guide[name] = guide[name].masked_fill(guide[name] == -math.inf, 0.0)
    return Tables(joint=by_site([draw.model for draw in draws], shape), guide=guide)


@dataclass(frozen=True)
class Collapsed:
    """Tables with summed-out sites gone and enumerated ones on one dimension: shape (outcomes, particles, batch).

    Attributes:
        log_joint: log p(x, z).
        log_guide: log q(z given x); where other sites depend on a summed-out one, its mean over the values.
        log_outcome: the log-probability of the enumerated sites' values; None where there is no such site.
        guide: log q by site, without summed-out ones.
        joint: log p by site; empty where a site is summed out.
        beneath: the guide's sites that depend on a summed-out one.
    """

    log_joint: Tensor
    log_guide: Tensor
    log_outcome: Tensor | None
    guide: Mapping[str, Tensor]
    joint: Mapping[str, Tensor]
    beneath: tuple[str, ...] = ()


def total(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors."""
    return functools.reduce(torch.add, terms)


def collapse(tables: Tables, log_guide: Tensor, axes: Axes, keep: int = 0) -> Collapsed:
    """Sum out the sites that are to be, w = sum over their values of q(value) w(value), and join enumerated ones.

    Args:
        tables: log-densities by site.
        log_guide: log q of all sites together.
        axes: the dimensions of values side by side.
        keep: the number of dimensions in front that stay.
    """
    log_joint = total(tables.joint.values())
    if not axes.sites:
        return Collapsed(log_joint, log_guide, None, tables.guide, tables.joint)
    summed = [keep + dim for dim in axes.of_kind(SUMMED)]
    sizes = tuple(size for dim, size in enumerate(axes.shape) if keep + dim not in summed)
    if summed:
        inside = [tables.guide[name] for name in axes.names(SUMMED) if name in tables.guide]
        rest = log_guide - total(inside) if inside else log_guide
        log_w = torch.logsumexp(log_joint - rest, summed)
        log_guide = rest.mean(summed)
        log_joint = log_w + log_guide

    def joined(table: Tensor) -> Tensor:
        if not sizes:
            return table
        front, last = table.shape[:keep], table.shape[-2:]
        return table.expand(*front, *sizes, *last).reshape(*front, -1, *last)

    def flat(table: Tensor) -> Tensor:
        return joined(table.sum(summed) if summed else table)

    guide = {name: each for name, each in tables.guide.items() if name not in axes.names(SUMMED)}
    beneath = tuple(name for name, each in guide.items() if any(each.shape[dim] > 1 for dim in summed))
    wrong = [name for name in axes.names(ENUMERATE) if name in beneath]
    if wrong:
        raise InputError(
            f"Site {wrong[0]!r} depends on a summed-out site of the guide, so its values have no one probability: use "
            "'score' for it, or enumerate both."
        )
    outcomes = [flat(guide[name]) for name in axes.names(ENUMERATE)]
    log_outcome = total(outcomes) if outcomes else None

    def possible(table: Tensor) -> Tensor:
        # a value of probability 0 counts for nothing: its infinite weight would be nan times that
        return table if log_outcome is None else table.masked_fill(log_outcome == -math.inf, 0.0)

    return Collapsed(
        log_joint=possible(joined(log_joint)),
        log_guide=possible(joined(log_guide)),
        log_outcome=log_outcome,
        guide={name: possible(flat(each)) for name, each in guide.items()},
        joint={} if summed else {name: possible(flat(each)) for name, each in tables.joint.items()},
        beneath=beneath,
    )
