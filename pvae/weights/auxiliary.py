"""Guides with auxiliary sites, which the model does not have: log q(z given x) with them marginalised."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.errors import InputError
from pvae.programs.layout import Site, sample_sites
from pvae.weights.handlers import Axes, base_of
from pvae.weights.log_probs import Shape, by_site, total
from pvae.weights.traces import PLATE, Draw

__all__ = ["Marginal", "auxiliary_sites", "log_marginal"]


class Marginal:
    """How auxiliary guide sites u are marginalised: by draws of a reverse kernel r(u given x, z).

    log q(z given x) is replaced by log (1/m) sum_i q(u_i, z given x) / r(u_i given x, z), where u_1 is the guide's own
    draw and the others come from the reverse kernel. In expectation this is never below log q(z given x), so every
    lower bound remains one; it rises with m.

    Args:
        reverse: a Pyro program with the guide's arguments and the latent sites of the model by name, such as
            ``reverse(x, z)``; it draws exactly the auxiliary sites. Its parameters are trained with the guide's.
        particles: m, at least 1.

    Raises:
        InputError: if ``particles < 1`` or the kernel cannot be called.
    Sources: Ranganath, Tran & Blei, Hierarchical Variational Models, arXiv:1511.02386 (m = 1); Sobolev & Vetrov,
        Importance Weighted Hierarchical Variational Inference, arXiv:1905.03290, equation 6.
    """

    def __init__(self, reverse: Callable[..., Any], particles: int = 1) -> None:
        if isinstance(particles, bool) or not isinstance(particles, int) or particles < 1:
            raise InputError(f"particles must be a whole number of at least 1; got {particles!r}.")
        if not callable(reverse):
            raise InputError(f"reverse needs a Pyro program such as reverse(x, z); got {type(reverse).__name__}.")
        self.reverse, self.particles = reverse, particles


class _Held(Messenger):
    """Gives sites the values that they are held at."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


class _AllValues(Messenger):
    """Puts all values of the auxiliary sites side by side."""

    def __init__(self, axes: Axes) -> None:
        super().__init__()
        self.axes = axes

    def _pyro_sample(self, msg: Any) -> None:
        if msg["infer"].get("is_auxiliary") and not msg["done"] and not msg["is_observed"]:
            msg["value"], msg["done"] = self.axes.add(msg, "sum"), True


def auxiliary_sites(draw: Draw) -> list[Site]:
    """Return the guide's auxiliary sites."""
    return [site for site in draw.latent() if site["infer"].get("is_auxiliary")]


def log_marginal(draw: Draw, shape: Shape, marginal: Marginal | None) -> tuple[Tensor, Tensor | None]:
    """Return log q(z given x) of a draw, without its auxiliary sites.

    Args:
        draw: of a guide with auxiliary sites.
        shape: where particles and data lie.
        marginal: the reverse kernel; None for the exact sum over all values.

    Returns:
        The log-density, shape (*left, particles, batch); and log r of what the kernel has drawn without a gradient,
        of that shape, whose gradient is the score, or None.

    Raises:
        InputError: if the sites have no finite support and there is no kernel, or it draws other sites.
    """
    auxiliary = {site["name"]: site for site in auxiliary_sites(draw)}
    held = {site["name"]: site["value"] for site in draw.latent() if site["name"] not in auxiliary}
    if marginal is None:
        return _exact(draw, shape, auxiliary, held), None
    return _sampled(draw, shape, auxiliary, held, marginal)


def _exact(draw: Draw, shape: Shape, auxiliary: Mapping[str, Site], held: Mapping[str, Tensor]) -> Tensor:
    for name, site in auxiliary.items():
        if not getattr(base_of(site["fn"]), "has_enumerate_support", False):
            raise InputError(
                f"Auxiliary site {name!r} has no finite support to sum over: give the objective a reverse kernel, "
                "auxiliary=pvae.Marginal(reverse=..., particles=5)."
            )
    branches = shape.left - len(draw.axes.sites)  # dimensions that are taken already, though by no site
    axes = dataclasses.replace(
        draw.axes,
        sites=[*draw.axes.sites, *[("", 1)] * branches],
        kinds=[*draw.axes.kinds, *["branch"] * branches],
    )
    args, kwargs = draw.arguments
    trace = poutine.trace(_AllValues(axes)(_Held(held)(draw.programs[1]))).get_trace(*args, **kwargs)
    wide = dataclasses.replace(shape, left=len(axes.sites))
    joint = total(by_site([trace], wide).values())
    added = range(len(auxiliary))
    return torch.logsumexp(joint, tuple(added))


def _sampled(
    draw: Draw, shape: Shape, auxiliary: Mapping[str, Site], held: Mapping[str, Tensor], marginal: Marginal
) -> tuple[Tensor, Tensor | None]:
    args, kwargs = draw.arguments
    wide = dataclasses.replace(shape, left=shape.left + 1)
    reverse = _reverse(marginal, draw, shape, held)
    values = {name: _padded(site, wide) for name, site in auxiliary.items()}
    score = None
    if marginal.particles > 1:
        drawn = poutine.trace(_many(reverse, marginal.particles - 1, wide)).get_trace(*args, **kwargs)
        _require_same(auxiliary, drawn)
        sites: dict[str, Site] = {name: drawn.nodes[name] for name in auxiliary}
        blind = [site for site in sites.values() if not site["fn"].has_rsample]
        if blind:
            scores = by_site([drawn], wide)
            score = total(scores[site["name"]] for site in blind).sum(0)
        values = {name: _joined(values[name], sites[name]["value"]) for name in auxiliary}
    back = poutine.trace(_Held(values)(reverse)).get_trace(*args, **kwargs)
    _require_same(auxiliary, back)
    forth = poutine.trace(_Held({**held, **values})(draw.programs[1])).get_trace(*args, **kwargs)
    ratio = total(by_site([forth], wide).values()) - total(by_site([back], wide).values())
    return torch.logsumexp(ratio, 0) - math.log(ratio.shape[0]), score


def _padded(site: Site, wide: Shape) -> Tensor:
    """A site's value with ones in front, up to a dimension left of all others."""
    value: Tensor = site["value"]
    dims = 1 + wide.nesting + wide.left + site["fn"].event_dim
    return value.reshape((1,) * (dims - value.dim()) + tuple(value.shape))


def _joined(own: Tensor, drawn: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(own.shape[1:], drawn.shape[1:])
    return torch.cat([own.expand(1, *shape), drawn.expand(drawn.shape[0], *shape)])


def _many(program: Callable[..., Any], count: int, wide: Shape) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with pyro.plate("reverse_draws_of_pvae", count, dim=-1 - wide.nesting - wide.left):
            return program(*args, **kwargs)

    return run


def _reverse(marginal: Marginal, draw: Draw, shape: Shape, held: Mapping[str, Tensor]) -> Callable[..., Any]:
    """The kernel as a program of the guide's arguments, in the particles' plate, with the latents that it names."""
    parameters = inspect.signature(marginal.reverse).parameters.values()
    every = any(each.kind is each.VAR_KEYWORD for each in parameters)
    wanted = {name: value for name, value in held.items() if every or name in {each.name for each in parameters}}

    def run(*args: Any, **kwargs: Any) -> Any:
        if shape.particles == 1:
            return marginal.reverse(*args, **kwargs, **wanted)
        with pyro.plate(PLATE, shape.particles, dim=-1 - shape.nesting):
            return marginal.reverse(*args, **kwargs, **wanted)

    return run


def _require_same(auxiliary: Mapping[str, Site], drawn: poutine.Trace) -> None:
    names = {site["name"] for site in sample_sites(drawn) if not site["is_observed"]}
    if names != auxiliary.keys():
        raise InputError(
            f"The reverse kernel draws {', '.join(sorted(names)) or 'nothing'}, and the guide's auxiliary sites are "
            f"{', '.join(auxiliary)}: it must draw exactly those."
        )
