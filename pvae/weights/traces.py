"""Pairs of traces: the guide draws z and the model scores it, in one run for all particles or one run for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.bijections import NO_BIJECTION, Bijection
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import PARTICLE_PLATE, Site, is_delta, is_subsample, log_density, sample_sites
from pvae.weights.enumeration import EnumeratedSite, EnumerationDims
from pvae.weights.handlers import (
    PATHWISE,
    BranchMessenger,
    ChooseStrategy,
    ReplayGuide,
    SiteStrategyMessenger,
    explain_broadcast_errors,
    is_score,
    keep_draw,
)
from pvae.weights.inversion import Inversion

__all__ = [
    "PARTICLE_PLATE",
    "TracePair",
    "in_particle_plate",
    "site_log_prob",
    "trace_pair",
    "trace_sequentially",
    "trace_vectorised",
]


def site_log_prob(site: Site) -> Tensor:
    """Return the log-density of a site's value, masked and unscaled, of the batch shape of its distribution.

    Raises:
        UnknownDensityError: if the distribution is a flow without an inverse, and the value is not its own draw.
    """
    log_prob = log_density(site)
    return log_prob if site["mask"] is None else scale_and_mask(log_prob, 1.0, site["mask"])


@dataclass(frozen=True)
class TracePair:
    """The traces of one run of both programs, with all particles or with one particle.

    Attributes:
        model: the trace of the model at the guide's draws.
        guide: the trace of the guide.
        programs: both programs as they were run, with their arguments.
        dims: the dimensions of enumerated sites.
        particles: the number of particles of the run.
        bijection: the auxiliary draws of the guide that Delta sites map one to one.
    """

    model: poutine.Trace
    guide: poutine.Trace
    programs: BoundPrograms
    dims: EnumerationDims
    particles: int = 1
    bijection: Bijection = NO_BIJECTION

    @cached_property
    def model_sites(self) -> list[Site]:
        """The sample sites of the model."""
        return sample_sites(self.model)

    @cached_property
    def guide_sites(self) -> list[Site]:
        """The sample sites of the guide."""
        return sample_sites(self.guide)

    @cached_property
    def latent_sites(self) -> list[Site]:
        """The latent sites of the guide."""
        return [site for site in self.guide_sites if not site["is_observed"]]

    @cached_property
    def auxiliary_sites(self) -> list[Site]:
        """The latent sites that only the guide has, marked with ``infer={"is_auxiliary": True}``, to be marginalised.

        Draws that Delta sites map one to one do not count, because they have no other value at the same z.
        """
        one_to_one = self.bijection.auxiliary
        return [
            site
            for site in self.latent_sites
            if site["infer"].get("is_auxiliary") and site["name"] not in one_to_one and not is_delta(site)
        ]

    def guide_at_fixed_z(self) -> poutine.Trace:
        """Return a trace of the guide at the same z, detached from its draw."""
        return self.guide_at({site["name"]: site["value"].detach() for site in self.latent_sites})

    def guide_at(self, values: Mapping[str, Tensor]) -> poutine.Trace:
        """Return a trace of the guide at values of its latent sites that equal its draws, with their own gradients.

        The guide is run again only if it has several latent sites, one of which may be a parameter of another.

        Args:
            values: the values by site; values of one-to-one auxiliary draws follow from the Delta sites.
        """
        if self.bijection.points:
            return self._inversion().trace_guide(values)
        fixed = self.guide.copy()
        for site in self.latent_sites:
            fixed.nodes[site["name"]] = site.copy() | {"value": values[site["name"]]}
        return fixed if len(self.latent_sites) == 1 else self.programs.trace_guide(fixed)

    def guide_elsewhere(self, trace: poutine.Trace) -> poutine.Trace:
        """Return a trace of the guide at the z of another trace, for a guide with a one-to-one map.

        Raises:
            InputError: if the guide cannot reach this z.
        """
        return self._inversion().trace_guide({site["name"]: site["value"] for site in sample_sites(trace)}, moved=True)

    def _inversion(self) -> Inversion:
        return Inversion(self.programs, self.guide, self.model, self.particles, self.bijection)

    def branch(self, name: str, values: Tensor) -> TracePair:
        """Return a run with one site at other values; the sites that depend on it are drawn again.

        Args:
            name: a latent site.
            values: its values, shape (branches, *batch, *event).
        """
        kept = {site["name"]: site["value"].detach() for site in self.model_sites if not site["is_observed"]}
        kept |= {site["name"]: site["value"].detach() for site in self.latent_sites}
        messenger = BranchMessenger(kept, name, values, self.dims)
        guide_program = poutine.replay(self.programs.guide, trace=_subsample_indices(self.guide))
        with explain_broadcast_errors([EnumeratedSite(name, len(values), "branch", 0)]):
            guide = self.programs.with_programs(self.programs.model, messenger(guide_program)).trace_guide()
            model_program = messenger(poutine.replay(self.programs.model, trace=guide))
            model = self.programs.with_programs(model_program, self.programs.guide).trace_model()
        return dataclasses.replace(self, model=model, guide=guide)


def _subsample_indices(trace: poutine.Trace) -> poutine.Trace:
    """Return a trace that holds only the indices of subsampled plates."""
    indices = poutine.Trace()
    for name, site in trace.nodes.items():
        if is_subsample(site):
            indices.add_node(name, **site)
    return indices


def trace_pair(
    programs: BoundPrograms,
    replayed: poutine.Trace | None = None,
    choose: ChooseStrategy = keep_draw,
    dims: EnumerationDims | None = None,
    bijection: Bijection | None = None,
) -> TracePair:
    """Run the guide, then the model at the values of the guide.

    Args:
        programs: both programs with their arguments.
        replayed: a trace that gives values of the guide's sites; None to draw them all.
        choose: the strategy of each latent site.
        dims: the dimensions of enumerated sites; the run adds to it.
        bijection: the auxiliary draws that Delta sites map one to one; None finds them.
    """
    dims = dims or EnumerationDims(0, ())
    bijection = programs.layout.bijection if bijection is None else bijection
    choose = _leaving_points(choose, bijection)
    guide_program = programs.guide if replayed is None else ReplayGuide(trace=replayed)(programs.guide)
    with explain_broadcast_errors(dims.sites):
        in_guide = SiteStrategyMessenger(choose, dims)
        guide = programs.with_programs(programs.model, in_guide(guide_program)).trace_guide()
        in_model = SiteStrategyMessenger(choose, dims, in_model=True, drawn=guide.nodes)
        # Inside the replay, the handler gets the chains of the model also for the sites that the guide has drawn.
        model_program = poutine.replay(in_model(programs.model), trace=_with_views(guide))
        model = programs.with_programs(model_program, programs.guide).trace_model()
    return TracePair(model, guide, programs, dims, bijection=bijection)


def _leaving_points(choose: ChooseStrategy, bijection: Bijection) -> ChooseStrategy:
    """Return the strategies for a guide with a one-to-one map; most strategies are only for the draws u.

    A Delta site is not changed, or detached: its score is the score of its density at a fixed z.
    """
    if not bijection.points:
        return choose

    def choose_for_draws(site: Site) -> str:
        strategy = choose(site)
        if site["name"] in bijection.points and strategy != PATHWISE and not is_score(strategy):
            raise InputError(
                f"Site {site['name']!r} is a Delta of the auxiliary draws {', '.join(bijection.auxiliary)}, so the "
                f"gradient {strategy!r} is for these draws. Name them instead."
            )
        return strategy

    return choose_for_draws


def _with_views(guide: poutine.Trace) -> poutine.Trace:
    """Return the guide's trace with a view of each value.

    The model receives the view, so the gradient of z through the model can be separated from its gradient through the
    guide.
    """
    received = guide.copy()
    for name, site in guide.nodes.items():
        value = site.get("value")
        if site["type"] == "sample" and isinstance(value, Tensor) and value.requires_grad:
            received.nodes[name] = site.copy() | {"value": value.view_as(value)}
    return received


def in_particle_plate(program: Callable[..., Any], particles: int, nesting: int) -> Callable[..., Any]:
    """Return the program inside a plate of particles, on the dimension to the left of all its plates.

    Args:
        program: a program that broadcasts over the particles.
        particles: the number of particles. With 1 there is no plate.
        nesting: the greatest number of nested plates of both programs.
    """
    if particles == 1:
        return program

    def run(*args: Any, **kwargs: Any) -> Any:
        with pyro.plate(PARTICLE_PLATE, particles, dim=-1 - nesting):
            return program(*args, **kwargs)

    return run


def trace_vectorised(
    programs: BoundPrograms, particles: int, choose: ChooseStrategy, dims: EnumerationDims | None = None
) -> TracePair:
    """Draw all particles in one run, in a plate to the left of all others.

    Args:
        programs: both programs with their arguments; they must broadcast over the particles.
        particles: number of particles. With 1 there is no plate.
        choose: the strategy of each latent site.
        dims: the dimensions of enumerated sites; the run adds to it.
    """
    bijection = programs.layout.bijection
    if particles > 1:
        nesting = programs.layout.nesting
        model = in_particle_plate(programs.model, particles, nesting)
        guide = in_particle_plate(programs.guide, particles, nesting)
        programs = programs.with_programs(model, guide)
    return dataclasses.replace(trace_pair(programs, None, choose, dims, bijection), particles=particles)


def trace_sequentially(
    programs: BoundPrograms, particles: int, choose: ChooseStrategy, dims: EnumerationDims
) -> list[TracePair]:
    """Draw each particle in a separate run, and return the runs.

    The runs share the indices of subsampled plates. Otherwise an average over particles would mix different data.

    Args:
        programs: both programs with their arguments.
        particles: number of particles.
        choose: the strategy of each latent site.
        dims: the dimensions of enumerated sites; no site may be enumerated.

    Raises:
        InputError: if a site is to be enumerated.
    """
    first = trace_pair(programs, None, choose, dims)
    if dims.sites:
        raise InputError(
            f"Site {dims.sites[0].name!r} cannot be enumerated, because the programs do not broadcast over dimensions "
            "to the left of the data dimension (see the warning about particles). Use the objective 'elbo-enum', or "
            "another "
            "strategy for the site."
        )
    indices = _subsample_indices(first.guide)
    return [first] + [trace_pair(programs, indices, choose, dims) for _ in range(particles - 1)]
