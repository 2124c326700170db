"""Many particles in one run where that is right: checked on the first batch of a kind, else one run for each."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pvae.errors import InputError, first_line
from pvae.programs.layout import Layout, Site, anchor, find_layout, remember
from pvae.randomness import evaluating, preserved_buffers, preserved_randomness
from pvae.weights.handlers import FIRST, PATHWISE, Axes, Choose, marked
from pvae.weights.traces import (
    PLATE,
    Arguments,
    Draw,
    draw_once,
    left_alone,
    run_apart,
    run_together,
    sample_sites,
    site_log_prob,
)

__all__ = ["can_vectorise", "draw_particles"]

_CHECKED_PARTICLES = 8


def _settled(site: Site) -> str:
    """A site that is summed out has one and the same value wherever scores are compared: its own draws would differ."""
    return FIRST if marked(site) else PATHWISE


def _alone(draw: Draw, particle: int, layout: Layout) -> poutine.Trace:
    """The guide's trace with the z of one particle, in the shape that a run without the particles' plate gives."""
    single = draw.guide.copy()
    for site in draw.latent():
        value = site["value"]
        # the particles' dimension, counted from the right of the value: the plates, then the event
        place = value.dim() - (1 + layout.nesting) - site["fn"].event_dim
        value = value.select(place, particle) if place >= 0 else value
        while value.dim() > layout.latent_dims[site["name"]] and value.shape[0] == 1:
            value = value.squeeze(0)
        single.nodes[site["name"]] = site.copy() | {"value": value}
    return single


def _scores(draw: Draw, particle: int | None = None, layout: Layout | None = None) -> dict[str, Tensor]:
    """Log-densities by program and site, of one particle where all share a run.

    A guide whose distribution scores only what it has drawn itself (a flow without an inverse) is left out.
    """
    found = {}
    for program, trace in (("model", draw.model), ("guide", draw.guide)):
        for site in sample_sites(trace):
            try:
                log_prob = site_log_prob(site).double()
            except (KeyError, NotImplementedError):
                if program == "model":
                    raise
                continue
            place = -1 if particle is None or layout is None else log_prob.dim() - (1 + layout.nesting)
            if particle is not None and place >= 0:
                log_prob = log_prob.select(place, particle)
            found[f"{site['name']} ({program})"] = log_prob
    return found


def _apart(shared: Tensor, alone: Tensor, room: float) -> float | None:
    """The largest difference of two log-densities beyond rounding, datum by datum, or None."""
    if shared.numel() != alone.numel():
        return float((shared.sum() - alone.sum()).abs())
    gap = (shared.reshape(alone.shape) - alone).abs()
    far = gap > room * (1 + torch.maximum(shared.reshape(alone.shape).abs(), alone.abs()))
    return float(gap[far].max()) if bool(far.any()) else None


def _difference(model: Any, guide: Any, arguments: Arguments, particles: int, layout: Layout) -> str | None:
    """Score z of each particle again, alone: say what differs from the run for all, or None.

    Raises:
        _Random: if the same z scores differently each time, so that nothing can be compared.
    """
    (together,) = run_together(model, guide, arguments, particles, layout, _settled)
    room = 1e-3 if together.latent()[0]["value"].dtype != torch.float64 else 1e-8
    for particle in range(particles):
        alone = _alone(together, particle, layout)
        once, twice = (_scores(draw_once(model, guide, arguments, alone, _settled)) for _ in range(2))
        if any(not torch.equal(once[name].nan_to_num(), twice[name].nan_to_num()) for name in once):
            raise _Random
        shared = _scores(together, particle, layout)
        for name in once.keys() & shared.keys():
            gap = _apart(shared[name], once[name], room)
            if gap is not None:
                return f"the log-density of site {name} is up to {gap:.3g} nats off for a particle among others"
    return None


class _Random(Exception):
    """The programs draw beside their sites, as dropout does."""


def _checked(model: Any, guide: Any, arguments: Arguments, particles: int, layout: Layout) -> str | None:
    """What speaks against one run for all particles, asked in evaluation mode where dropout would blur it."""
    try:
        return _difference(model, guide, arguments, particles, layout)
    except _Random:
        owners = [anchor(program)[0] for program in (model, guide)]
    with evaluating(*owners):
        try:
            return _difference(model, guide, arguments, particles, layout)
        except _Random:
            return None


def _vectorises(model: Any, guide: Any, arguments: Arguments, particles: int, layout: Layout) -> bool:
    owners = [anchor(program)[0] for program in (model, guide)]
    with preserved_randomness(), preserved_buffers(*owners), torch.no_grad():
        if not draw_once(model, guide, arguments).latent():
            return True
        try:
            reason = _checked(model, guide, arguments, min(particles, _CHECKED_PARTICLES), layout)
        except InputError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
    if reason is not None:
        warnings.warn(
            f"Particles are drawn one by one, which is slower: in one run for all, {reason}. A program vectorises if "
            "it treats all dimensions left of the data's as free (z.mean(0), z.reshape(batch, -1), len(z) and z[0] do "
            "not).",
            stacklevel=2,
        )
    return reason is None


def can_vectorise(model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], particles: int) -> bool:
    """Whether particles may share one run: checked on the first batch of a kind, with one warning if not."""
    layout = find_layout(model, guide, args, kwargs)
    if layout.vectorised is None and particles > 1:
        checked = _vectorises(model, guide, (args, kwargs), particles, layout)
        layout = dataclasses.replace(layout, vectorised=checked)
        remember(model, guide, args, kwargs, layout)
    return layout.vectorised is not False


def draw_particles(
    model: Any,
    guide: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    particles: int,
    choose: Choose = left_alone,
    data_plate: str = "",
) -> list[Draw]:
    """Draw z from the guide `particles` times and score it by the model.

    On the first batch of a kind each of up to eight particles is scored again alone. Where that differs, or
    raises, one warning is given, and particles are drawn one by one from then on.

    Args:
        model: p(x, z).
        guide: q(z given x).
        args: positional arguments of both.
        kwargs: keyword arguments of both.
        particles: how many.
        choose: how the value of each latent site comes about.
        data_plate: the name of the plate over data, the one in which sites may be enumerated.

    Returns:
        One draw that holds all particles, or one draw per particle.
    """
    layout = find_layout(model, guide, args, kwargs)
    axes = Axes(layout.nesting, (PLATE, data_plate))
    if not can_vectorise(model, guide, args, kwargs, particles):
        return run_apart(model, guide, (args, kwargs), particles, choose, axes)
    layout = find_layout(model, guide, args, kwargs)
    draws = run_together(model, guide, (args, kwargs), particles, layout, choose, axes)
    if axes.sites and particles == 1 and not can_vectorise(model, guide, args, kwargs, 2):
        return run_apart(model, guide, (args, kwargs), particles, choose, Axes(layout.nesting, (PLATE, data_plate)))
    return draws
