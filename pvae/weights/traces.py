"""Pairs of traces: z drawn by the guide and scored by the model, one run for many particles or one for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.layout import Layout, Site, sample_sites
from pvae.weights.handlers import Axes, Branching, Choose, Steering, side_by_side

__all__ = [
    "PLATE",
    "Arguments",
    "Draw",
    "draw_once",
    "left_alone",
    "run_apart",
    "run_together",
    "site_log_prob",
]

PLATE = "particles_of_pvae"
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def site_log_prob(site: Site) -> Tensor:
    """Return the log-density of a site's value, masked and unscaled, of the batch shape of its distribution."""
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, 1.0, site["mask"])


@dataclass(frozen=True)
class Draw:
    """One run of both programs: all particles at once, or one of them.

    Attributes:
        model: the model's trace, at the guide's draws.
        guide: the guide's trace.
        programs: both programs, as they were run.
        arguments: of both.
        axes: the dimensions of sites whose values all stand side by side.
    """

    model: poutine.Trace
    guide: poutine.Trace
    programs: tuple[Callable[..., Any], Callable[..., Any]]
    arguments: Arguments
    axes: Axes

    def latent(self) -> list[Site]:
        """Return the guide's latent sites."""
        return [site for site in sample_sites(self.guide) if not site["is_observed"]]

    def guide_at(self, trace: poutine.Trace) -> poutine.Trace:
        """Return the guide run again at the values of a trace."""
        args, kwargs = self.arguments
        return poutine.trace(poutine.replay(self.programs[1], trace=trace)).get_trace(*args, **kwargs)

    def guide_at_fixed_z(self) -> poutine.Trace:
        """Return the guide at the same z, cut off from its draw; run again only where one site may feed another."""
        fixed = self.guide.copy()
        for site in self.latent():
            fixed.nodes[site["name"]] = site.copy() | {"value": site["value"].detach()}
        return fixed if len(self.latent()) == 1 else self.guide_at(fixed)

    def branch(self, name: str, values: Tensor) -> Draw:
        """Return a run with one site at other values, shape (branches, *batch, *event), and what they reach anew."""
        args, kwargs = self.arguments
        held = {site["name"]: site["value"].detach() for site in sample_sites(self.model) if not site["is_observed"]}
        held |= {site["name"]: site["value"].detach() for site in self.latent()}
        steer = Branching(held, name, values, self.axes)
        indices = poutine.replay(self.programs[1], trace=_indices(self.guide))
        with side_by_side([(name, len(values))]):
            guide = poutine.trace(steer(indices)).get_trace(*args, **kwargs)
            model = poutine.trace(steer(poutine.replay(self.programs[0], trace=guide))).get_trace(*args, **kwargs)
        return dataclasses.replace(self, model=model, guide=guide)


def _indices(trace: poutine.Trace) -> poutine.Trace:
    """The indices of subsampled plates alone."""
    indices = poutine.Trace()
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and type(site["fn"]).__name__ == "_Subsample":
            indices.add_node(name, **site)
    return indices


def left_alone(site: Site) -> str:
    """Leave a site's value as it is drawn."""
    return "pathwise"


def draw_once(
    model: Any,
    guide: Any,
    arguments: Arguments,
    replayed: poutine.Trace | None = None,
    choose: Choose = left_alone,
    axes: Axes | None = None,
) -> Draw:
    """Run the guide, and the model at its values."""
    args, kwargs = arguments
    axes = axes or Axes(0, ())
    steer = Steering(choose, axes)
    first = guide if replayed is None else poutine.replay(guide, trace=replayed)
    with side_by_side(axes.sites):
        guide_trace = poutine.trace(steer(first)).get_trace(*args, **kwargs)
        follow = Steering(choose, axes, in_model=True)
        replayed_model = poutine.replay(model, trace=_entering(guide_trace))
        model_trace = poutine.trace(follow(replayed_model)).get_trace(*args, **kwargs)
    return Draw(model_trace, guide_trace, (model, guide), arguments, axes)


def _entering(guide: poutine.Trace) -> poutine.Trace:
    """The guide's trace with each value as a view: a gradient that reaches z by the model can be told from others."""
    entering = guide.copy()
    for name, site in guide.nodes.items():
        value = site.get("value")
        if site["type"] == "sample" and isinstance(value, Tensor) and value.requires_grad:
            entering.nodes[name] = site.copy() | {"value": value.view_as(value)}
    return entering


def _together(program: Callable[..., Any], particles: int, nesting: int) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with pyro.plate(PLATE, particles, dim=-1 - nesting):
            return program(*args, **kwargs)

    return run


def run_together(
    model: Any,
    guide: Any,
    arguments: Arguments,
    particles: int,
    layout: Layout,
    choose: Choose = left_alone,
    axes: Axes | None = None,
) -> list[Draw]:
    """Draw all particles in one run, in a plate left of all others."""
    if particles > 1:
        model, guide = (_together(each, particles, layout.nesting) for each in (model, guide))
    return [draw_once(model, guide, arguments, None, choose, axes)]


def run_apart(model: Any, guide: Any, arguments: Arguments, particles: int, choose: Choose, axes: Axes) -> list[Draw]:
    """One run per particle. They share the indices of subsampled plates: else a mean over them mixes different data."""
    first = draw_once(model, guide, arguments, None, choose, axes)
    if axes.sites:
        raise InputError(
            f"Site {axes.sites[0][0]!r} cannot be enumerated: the programs do not treat dimensions left of the "
            "data's as free (see the warning on particles). Use the objective 'elbo-enum', or another strategy."
        )
    indices = _indices(first.guide)
    return [first] + [draw_once(model, guide, arguments, indices, choose, axes) for _ in range(particles - 1)]
