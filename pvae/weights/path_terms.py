"""log p(z), log p(x, z) and log q(z given x) at any z, in unconstrained coordinates, without discrete sites."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.bound import BoundPrograms
from pvae.programs.queries import trace_model_at_any_z
from pvae.programs.sites import PARTICLE_PLATE, Site, is_discrete, sample_sites
from pvae.weights.contraction import sum_of_tree
from pvae.weights.enumeration import EnumerationDims, support_size
from pvae.weights.fixed_values import FixedValues
from pvae.weights.handlers import PATHWISE, SiteStrategyMessenger, explain_broadcast_errors
from pvae.weights.log_probs import PlateDims, sum_tensors
from pvae.weights.site_validation import common_scale
from pvae.weights.summed_sites import SummedSites, as_tree
from pvae.weights.traces import TracePair, in_particle_plate, site_log_prob
from pvae.weights.unconstrained_sites import (
    FreeValues,
    UnconstrainedLayout,
    find_free_sites,
    transform_of,
)

__all__ = ["PathPrograms", "PathTerms"]


class PathTerms(NamedTuple):
    """Log-densities at z, each of shape (particles, batch), in nats.

    Attributes:
        log_prior: log p(z).
        log_joint: log p(x, z).
        log_guide: log q(z given x); None if it was not requested.
        log_volume: log |det dz/du| of the map from unconstrained numbers u to z.
    """

    log_prior: Tensor
    log_joint: Tensor
    log_guide: Tensor | None
    log_volume: Tensor


@dataclass(frozen=True, eq=False)
class PathPrograms:
    """Both programs on one batch, as functions of unconstrained numbers u, shape (particles, batch, numbers).

    Discrete latent sites of finite support are summed out of each program separately, with or without a mark.

    Attributes:
        programs: both programs with their arguments.
        layout: the places of the continuous sites in u.
        plate: the name of the plate over data.
        vectorised: whether all particles may share one run.
    """

    programs: BoundPrograms
    layout: UnconstrainedLayout
    plate: str
    vectorised: bool

    @classmethod
    def of(cls, programs: BoundPrograms, data_plate: str | None, *, vectorised: bool) -> PathPrograms:
        """Return the programs with the places of their continuous sites.

        Args:
            programs: both programs with their arguments.
            data_plate: the name of the plate over data, if several plates hold every site.
            vectorised: whether all particles may share one run.

        Raises:
            InputError: if there is no weight per datum, or a latent site of the model cannot be annealed.
        """
        plate, data_dim = programs.layout.data_plate(data_plate)
        with programs.preserved_state():
            trace = trace_model_at_any_z(programs)
        sites = sample_sites(trace)
        common_scale(TracePair(trace, poutine.Trace(), programs, EnumerationDims(0, ())))
        layout = find_free_sites(sites, programs.layout.nesting, data_dim)
        _require_few_values(sites)
        return cls(programs, layout, plate, vectorised)

    def on(self, programs: BoundPrograms) -> PathPrograms:
        """Return the same programs on another batch of the same kind."""
        return dataclasses.replace(self, programs=programs)

    def at_arguments(self, arguments: tuple[Tensor, ...]) -> PathPrograms:
        """Return the same programs with other tensors of the same kinds as their arguments."""
        programs = BoundPrograms(self.programs.model, self.programs.guide, arguments, self.programs.kwargs)
        programs.store_layout(self.programs.layout)
        return self.on(programs)

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(site.name for site in self.layout.sites)

    @property
    def numbers(self) -> int:
        """The number of unconstrained numbers of one datum."""
        sizes = [torch.Size([*site.plates, *site.event]).numel() for site in self.layout.sites]
        data = [site.plates[self.layout.data_dim] for site in self.layout.sites]
        return sum(size // count for size, count in zip(sizes, data, strict=True))

    def terms(self, numbers: Tensor, *, with_guide: bool) -> PathTerms:
        """Return the log-densities at unconstrained numbers, differentiable in them.

        Args:
            numbers: u, shape (particles, batch, numbers).
            with_guide: whether log q(z given x) is computed too.

        Raises:
            InputError: if the guide does not draw the continuous sites of the model, or a site cannot be summed out.
        """
        if not self.vectorised and len(numbers) > 1:
            return _joined([self.terms(row.unsqueeze(0), with_guide=with_guide) for row in numbers])
        free = FreeValues(self.layout.split(numbers), self.programs.layout.nesting)
        dims, trace = self._run(free(self._in_plate(self.programs.model, len(numbers))), is_model=True)
        latents = trace.copy()
        for site in sample_sites(trace):
            if site["is_observed"]:
                latents.remove_node(site["name"])
        shape = numbers.shape[:2]
        plates = self._plate_dims(dims, shape[0])
        log_guide = self._log_guide(free.constrained, shape) if with_guide else None
        return PathTerms(
            log_prior=self._marginal(latents, dims, plates, is_model=True).expand(shape),
            log_joint=self._marginal(trace, dims, plates, is_model=True).expand(shape),
            log_guide=log_guide,
            log_volume=sum_tensors(_plates_of(free.log_volumes, plates)).expand(shape),
        )

    def _log_guide(self, values: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        """Return log q(z given x), shape (particles, batch).

        Raises:
            InputError: if the guide draws other continuous sites than the model has.
        """
        _refuse_in_guide(self.programs.layout.bijection.points)
        guide = FixedValues(values)(self._in_plate(self.programs.guide, shape[0]))
        dims, trace = self._run(guide, is_model=False)
        continuous = {site["name"] for site in sample_sites(trace) if not site["is_observed"] and not is_discrete(site)}
        _refuse_in_guide(sorted(continuous ^ self._names))
        return self._marginal(trace, dims, self._plate_dims(dims, shape[0]), is_model=False).expand(shape)

    def _run(self, program: Callable[..., Any], *, is_model: bool) -> tuple[EnumerationDims, poutine.Trace]:
        """Return a trace of a program with its discrete latent sites enumerated."""
        dims = EnumerationDims(self.programs.layout.nesting, (PARTICLE_PLATE, self.plate))
        with explain_broadcast_errors(dims.sites):
            enumerated = SiteStrategyMessenger(self._choose, dims, in_model=is_model)(program)
            if is_model:
                return dims, self.programs.with_programs(enumerated, self.programs.guide).trace_model()
            return dims, self.programs.with_programs(self.programs.model, enumerated).trace_guide()

    def _choose(self, site: Site) -> str:
        return PATHWISE if site["name"] in self._names or not is_discrete(site) else "sum"

    def _plate_dims(self, dims: EnumerationDims, particles: int) -> PlateDims:
        width = dims.width if dims.sites else 0
        return PlateDims(self.programs.layout.nesting, self.layout.data_dim, particles, width)

    def _marginal(self, trace: poutine.Trace, dims: EnumerationDims, plates: PlateDims, *, is_model: bool) -> Tensor:
        """Return the log-density of all sites of a trace without its discrete sites, shape (particles, batch or 1)."""
        if not dims.sites:
            return sum_tensors(plates.reduce(site_log_prob(site)) for site in sample_sites(trace))
        empty = poutine.Trace()
        pair = TracePair(trace if is_model else empty, empty if is_model else trace, self.programs, dims)
        summed = SummedSites(pair, plates)
        names = summed.sites.values()
        tree = summed.model_factors(names) if is_model else as_tree(summed.guide_factors(names).values())
        return summed.table(sum_of_tree(tree, summed.sites))

    def _in_plate(self, program: Callable[..., Any], particles: int) -> Callable[..., Any]:
        return in_particle_plate(program, particles, self.programs.layout.nesting)

    def draw_prior(self, particles: int) -> Tensor:
        """Return u of draws of z from the prior, shape (particles, batch, numbers).

        Args:
            particles: the number of draws per datum.

        Raises:
            InputError: if a draw has no finite unconstrained value.
        """
        return self._draw(particles, from_guide=False)

    def draw_guide(self, particles: int) -> Tensor:
        """Return u of draws of z from the guide, shape (particles, batch, numbers).

        Args:
            particles: the number of draws per datum.

        Raises:
            InputError: if the guide does not draw a site, or a draw has no finite unconstrained value.
        """
        return self._draw(particles, from_guide=True)

    def _draw(self, particles: int, *, from_guide: bool) -> Tensor:
        at_once = particles if self.vectorised else 1
        parts = []
        for _ in range(particles // at_once):
            model = self._in_plate(self.programs.model, at_once)
            programs = self.programs.with_programs(model, self._in_plate(self.programs.guide, at_once))
            trace = programs.trace_both()[1] if from_guide else programs.trace_model()
            parts.append(self.unconstrained(trace))
        return torch.cat(parts)

    def unconstrained(self, trace: poutine.Trace) -> Tensor:
        """Return u of the continuous sites of a trace of the model, shape (particles, batch, numbers).

        Args:
            trace: a trace of the model, of one particle or of particles in a plate.

        Raises:
            InputError: if a value has no finite unconstrained value.
        """
        values = {}
        for place in self.layout.sites:
            site: Site = trace.nodes[place.name]
            value = transform_of(site).inv(site["value"])
            if not bool(value.isfinite().all()):
                raise InputError(
                    f"Annealing needs draws inside the support, but a draw of site {place.name!r} is on its boundary, "
                    "to the precision of its dtype. Use float64, or a prior with less mass at the boundary."
                )
            batch = tuple(value.shape[: value.dim() - len(place.event)])
            batch = (1,) * (1 + len(place.plates) - len(batch)) + batch
            values[place.name] = value.reshape(*batch, *place.event)
        return self.layout.join(values)


def _joined(runs: Sequence[PathTerms]) -> PathTerms:
    """Return the terms of all particles from the terms of one run for each."""
    log_guides = [run.log_guide for run in runs if run.log_guide is not None]
    return PathTerms(
        torch.cat([run.log_prior for run in runs]),
        torch.cat([run.log_joint for run in runs]),
        torch.cat(log_guides) if log_guides else None,
        torch.cat([run.log_volume for run in runs]),
    )


def _plates_of(tables: Mapping[str, Tensor], plates: PlateDims) -> list[Tensor]:
    """Return tables of shape (particles, *plates) summed over inner plates, shape (particles, batch) each."""
    plain = dataclasses.replace(plates, left=0)
    return [plain.reduce(table) for table in tables.values()]


def _refuse_in_guide(names: Sequence[str]) -> None:
    """Raise InputError for sites that prevent a density of the model's continuous sites in the guide.

    Raises:
        InputError: with the first name, if there is one.
    """
    if names:
        raise InputError(
            "A path from the guide needs log q(z given x) at any z, from a guide that draws the continuous sites of "
            f"the model and no others; site {names[0]!r} prevents it. Use start='prior'."
        )


def _require_few_values(sites: list[Site]) -> None:
    """Raise InputError for discrete latent sites with too many values to sum over.

    Raises:
        InputError: with the name of the site.
    """
    for site in sites:
        if site["is_observed"] or not is_discrete(site):
            continue
        try:
            support_size(site["name"], site["fn"])
        except InputError as error:
            raise InputError(
                f"Annealing sums discrete latent sites out, but the values of site {site['name']!r} cannot be listed "
                "or are too many. Estimate with log_evidence (method 'is')."
            ) from error
