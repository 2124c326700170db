"""Many particles in one run, if a check on the first batch of a kind allows it; otherwise one run for each particle."""

from __future__ import annotations

import dataclasses
import warnings

import torch
from pyro import poutine
from torch import Tensor

from pvae.errors import InputError, whole_reason
from pvae.programs.bijections import without_points
from pvae.programs.bound import BoundPrograms
from pvae.programs.layout import Layout
from pvae.programs.sites import Site, UnknownDensityError, is_marked_for_enumeration
from pvae.randomness import evaluating
from pvae.weights.enumeration import EnumerationDims
from pvae.weights.handlers import FIRST_VALUE, PATHWISE, ChooseStrategy, keep_draw
from pvae.weights.traces import (
    PARTICLE_PLATE,
    TracePair,
    site_log_prob,
    trace_pair,
    trace_sequentially,
    trace_vectorised,
)

__all__ = ["can_vectorise", "trace_particles"]

_MOST_PARTICLES_OF_CHECK = 8


class _RandomDensities(Exception):
    """The same z has a different log-density in each run, as with dropout, so that two runs cannot be compared."""


def _fixed_values(site: Site) -> str:
    """Return the strategy of the check: a summed-out site gets its first value, because its draws would differ.

    A marked site without a finite support is drawn, several times for tensor Monte Carlo; it keeps its draw.
    """
    is_summed_out = is_marked_for_enumeration(site) and site["fn"].has_enumerate_support
    return FIRST_VALUE if is_summed_out else PATHWISE


def _trace_of_particle(pair: TracePair, particle: int, layout: Layout) -> poutine.Trace:
    """Return the guide's trace with the z of one particle, in the shape of a run without the particle plate."""
    single = without_points(pair.guide, pair.bijection, {})
    for site in pair.latent_sites:
        if site["name"] in pair.bijection.points:
            continue
        value = site["value"]
        # The dimension of the particles, counted from the right of the value: first the event, then the plates.
        dim = value.dim() - (1 + layout.nesting) - site["fn"].event_dim
        value = value.select(dim, particle) if dim >= 0 else value
        while value.dim() > layout.latent_dims[site["name"]] and value.shape[0] == 1:
            value = value.squeeze(0)
        single.nodes[site["name"]] = site.copy() | {"value": value}
    return single


def _log_probs(pair: TracePair, particle: int | None, nesting: int) -> dict[str, Tensor]:
    """Return the log-densities by program and site, in float64.

    A guide's distribution that scores only its own draws (a flow without an inverse) is left out, and so is a
    likelihood without a density, which `pyro.infer.EnergyDistance` accepts.

    Args:
        pair: a run of both programs.
        particle: the index of the particle in a vectorised run; None for a run of one particle.
        nesting: the greatest number of nested plates.
    """
    log_probs = {}
    for program, sites in (("model", pair.model_sites), ("guide", pair.guide_sites)):
        for site in sites:
            try:
                log_prob = site_log_prob(site).detach().double()
            except NotImplementedError:
                continue
            except UnknownDensityError:
                if program == "model":
                    raise
                continue
            dim = log_prob.dim() - (1 + nesting)
            if particle is not None and dim >= 0:
                log_prob = log_prob.select(dim, particle)
            log_probs[f"{site['name']} ({program})"] = log_prob
    return log_probs


def _largest_gap(vectorised: Tensor, alone: Tensor, tolerance: float) -> float | None:
    """Return the largest difference of two log-densities beyond rounding, datum by datum; None if there is none."""
    if vectorised.numel() != alone.numel():
        return float((vectorised.sum() - alone.sum()).abs())
    vectorised = vectorised.reshape(alone.shape)
    gap = (vectorised - alone).abs()
    beyond = gap > tolerance * (1 + torch.maximum(vectorised.abs(), alone.abs()))
    return float(gap[beyond].max()) if bool(beyond.any()) else None


def _difference(programs: BoundPrograms, particles: int) -> str | None:
    """Score the first and the last particle of a vectorised run again separately.

    Return the difference as text, or None. A program that mixes particles (a mean over them, the length of z, one fixed
    particle) changes the log-density of at least one of the two.

    Raises:
        _RandomDensities: if the same z has a different log-density each time.
    """
    layout = programs.layout
    together = trace_vectorised(programs, particles, _fixed_values)
    is_double = together.latent_sites[0]["value"].dtype == torch.float64
    tolerance = 1e-8 if is_double else 1e-3
    for particle in dict.fromkeys((0, particles - 1)):
        values = _trace_of_particle(together, particle, layout)
        alone = _log_probs(trace_pair(programs, values, _fixed_values), None, layout.nesting)
        vectorised = _log_probs(together, particle, layout.nesting)
        for name in alone.keys() & vectorised.keys():
            gap = _largest_gap(vectorised[name], alone[name], tolerance)
            if gap is None:
                continue
            again = _log_probs(trace_pair(programs, values, _fixed_values), None, layout.nesting)
            if any(not torch.equal(alone[site].nan_to_num(), again[site].nan_to_num()) for site in alone):
                raise _RandomDensities
            return f"the log-density of site {name} differs by up to {gap:.3g} nats from a run of one particle"
    return None


def _reason_against(programs: BoundPrograms, particles: int) -> str | None:
    """Return the reason why particles cannot share a run, or None.

    In evaluation mode if dropout makes densities random.
    """
    try:
        return _difference(programs, particles)
    except _RandomDensities:
        pass
    with evaluating(*programs.modules):
        try:
            return _difference(programs, particles)
        except _RandomDensities:
            return None


def _check_vectorised(programs: BoundPrograms, particles: int) -> bool:
    """Return whether particles may share one run; warn with the reason if they may not."""
    if not programs.layout.latent_dims:
        return True
    with programs.preserved_state():
        try:
            reason = _reason_against(programs, min(particles, _MOST_PARTICLES_OF_CHECK))
        except InputError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {whole_reason(error)}"
    if reason is not None:
        warnings.warn(
            f"Particles are drawn one by one, which is slower. In one run for all particles, {reason}. A program "
            "vectorises if it broadcasts over all dimensions to the left of the data's (z.mean(0), z.reshape(batch, "
            "-1), len(z) and z[0] do not).",
            stacklevel=2,
        )
    return reason is None


def can_vectorise(programs: BoundPrograms, particles: int) -> bool:
    """Return whether particles may share one run; this is checked on the first batch of a kind.

    Args:
        programs: both programs with their arguments.
        particles: the requested number of particles; 1 needs no check.
    """
    layout = programs.layout
    if layout.vectorised is None and particles > 1:
        layout = dataclasses.replace(layout, vectorised=_check_vectorised(programs, particles))
        programs.store_layout(layout)
    return layout.vectorised is not False


def trace_particles(
    programs: BoundPrograms, particles: int, choose: ChooseStrategy = keep_draw, data_plate: str = ""
) -> list[TracePair]:
    """Draw z from the guide `particles` times and score it by the model.

    On the first batch of a kind the first and the last of up to eight particles are scored again separately. If that
    differs, or raises, one warning is given, and particles are drawn one by one from then on.

    Args:
        programs: both programs with their arguments.
        particles: the number of draws.
        choose: the strategy of each latent site.
        data_plate: the name of the plate over data; sites may be enumerated only in this plate.

    Returns:
        One pair of traces that holds all particles, or one pair for each particle.
    """
    plates = (PARTICLE_PLATE, data_plate)
    dims = EnumerationDims(programs.layout.nesting, plates)
    if not can_vectorise(programs, particles):
        return trace_sequentially(programs, particles, choose, dims)
    pair = trace_vectorised(programs, particles, choose, dims)
    if dims.sites and particles == 1 and not can_vectorise(programs, 2):
        return trace_sequentially(programs, particles, choose, EnumerationDims(programs.layout.nesting, plates))
    return [pair]
