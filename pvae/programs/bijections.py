"""Auxiliary draws u of a guide that Delta sites map one to one to z = T(u), as Pyro's autoguides write them.

Such a guide has a density of z: log q(z) = log q(u) - log |det dT/du|. The second term is the ``log_density`` of the
Delta sites. Determinants are computed in the unconstrained coordinates y of z, because a z on a simplex has one number
more than its u.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import identity_transform

from pvae.errors import InputError
from pvae.programs.sites import Site, base_distribution, is_delta, sample_sites

__all__ = [
    "MOST_NUMBERS",
    "NO_BIJECTION",
    "Bijection",
    "chart_of",
    "coordinates",
    "find_bijection",
    "flatten",
    "jacobian",
    "value_of",
    "without_points",
]

#: The largest number of coordinates for which a Jacobian that is not diagonal is computed.
MOST_NUMBERS = 256


@dataclass(frozen=True)
class Bijection:
    """The auxiliary draws and the Delta sites of a guide's one-to-one map.

    Attributes:
        auxiliary: the names of the auxiliary sites u.
        points: the names of the Delta sites z.
        diagonal: whether each unconstrained coordinate of z depends on only one number of u, in the same order.
        partners: for each z that is the transform of one u to its support, as in `AutoNormal`, the name of that u.
    """

    auxiliary: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    diagonal: bool = True
    partners: Mapping[str, str] = field(default_factory=dict)


#: The bijection of a guide without one.
NO_BIJECTION = Bijection()


def chart_of(model_site: Site) -> torch.distributions.Transform:
    """Return the transform from unconstrained coordinates to a site's support; the identity if there is none."""
    try:
        transform: torch.distributions.Transform = biject_to(model_site["fn"].support)
    except (AttributeError, NotImplementedError):
        return identity_transform
    return transform


def value_of(trace: poutine.Trace, name: str) -> Tensor:
    """Return the value of a sample site of a trace."""
    value: Tensor = trace.nodes[name]["value"]  # type: ignore[assignment]
    return value


def flatten(values: Iterable[Tensor], particles: int = 1) -> Tensor:
    """Return the numbers of several sites, shape (particles, numbers).

    Args:
        values: the values of the sites; with several particles, their dimension is the first one of each.
        particles: the number of particles.
    """
    return torch.cat([value.reshape(particles, -1) for value in values], -1)


def coordinates(values: Mapping[str, Tensor], model: poutine.Trace, particles: int = 1) -> Tensor:
    """Return the unconstrained coordinates y of values of z, shape (particles, numbers).

    Args:
        values: the values by site.
        model: a trace of the model, whose sites have the supports.
        particles: the number of particles.
    """
    return flatten([chart_of(model.nodes[name]).inv(value) for name, value in values.items()], particles)


def jacobian(values: Tensor, arguments: Sequence[Tensor], diagonal: bool) -> Tensor:
    """Return the derivative of coordinates of z by the numbers of u, without gradient.

    Args:
        values: shape (particles, numbers); the particles are independent of each other.
        arguments: the values of u, which `values` depend on.
        diagonal: whether each of the `values` depends only on the number of u at the same position.

    Returns:
        Shape (particles, numbers) if it is diagonal, else (particles, numbers of values, numbers of u).
    """
    columns = [values] if diagonal else values.unbind(-1)
    rows = []
    for column in columns:
        gradients = torch.autograd.grad(column.sum(), arguments, retain_graph=True, allow_unused=True)
        known = [
            torch.zeros_like(argument) if gradient is None else gradient
            for gradient, argument in zip(gradients, arguments, strict=True)
        ]
        rows.append(flatten(known, len(values)).detach())
    return rows[0] if diagonal else torch.stack(rows, -2)


def without_points(trace: poutine.Trace, bijection: Bijection, values: Mapping[str, Tensor]) -> poutine.Trace:
    """Return a trace of the guide to replay, with other values of some sites, and without the Delta sites.

    A Delta site is drawn anew from its auxiliary draws, because its value must agree with them to the last bit.
    """
    replayed = trace.copy()
    for name in bijection.points:
        replayed.remove_node(name)
    for name, value in values.items():
        replayed.nodes[name] = replayed.nodes[name].copy() | {"value": value}
    return replayed


def find_bijection(
    trace_guide: Callable[[poutine.Trace], poutine.Trace], guide: poutine.Trace, model: poutine.Trace
) -> Bijection:
    """Return the one-to-one map of a guide; a map without sites if the guide has none.

    Args:
        trace_guide: runs the guide at the values of a trace.
        guide: a trace of the guide.
        model: a trace of the model at the guide's draws.

    Raises:
        InputError: if the Delta sites depend on auxiliary draws and are not a one-to-one map of them, or if their
            ``log_density`` is not that of the map.
    """
    sites = [site for site in sample_sites(guide) if not site["is_observed"]]
    auxiliary = [site["name"] for site in sites if site["infer"].get("is_auxiliary") and _is_continuous(site)]
    points = [site["name"] for site in sites if is_delta(site) and _is_latent(model, site["name"])]
    leaves = {name: value_of(guide, name).detach().clone().requires_grad_() for name in auxiliary}
    if not leaves or not points:
        return NO_BIJECTION
    with torch.enable_grad():
        run = trace_guide(without_points(guide, Bijection(tuple(leaves), tuple(points)), leaves))
        dependencies = {name: _dependencies(value_of(run, name), leaves) for name in points}
        points = [name for name in points if dependencies[name]]
        used = {name: leaf for name, leaf in leaves.items() if any(name in dependencies[point] for point in points)}
        return _verified(run, model, used, {name: dependencies[name] for name in points}) if points else NO_BIJECTION


def _is_continuous(site: Site) -> bool:
    """Return whether a site is a draw of real numbers from a density."""
    has_values = getattr(base_distribution(site["fn"]), "has_enumerate_support", False)
    return bool(site["value"].is_floating_point()) and not is_delta(site) and not has_values


def _is_latent(model: poutine.Trace, name: str) -> bool:
    """Return whether the model has a continuous latent site of this name."""
    site: Site = model.nodes.get(name)
    if site is None or site["type"] != "sample" or site["is_observed"]:
        return False
    return bool(site["value"].is_floating_point()) and not getattr(chart_of(site).codomain, "is_discrete", False)


def _dependencies(value: Tensor, leaves: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the leaves that a value depends on."""
    if not value.requires_grad:
        return []
    gradients = torch.autograd.grad(value.sum(), list(leaves.values()), retain_graph=True, allow_unused=True)
    return [name for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None]


def _verified(
    run: poutine.Trace, model: poutine.Trace, leaves: Mapping[str, Tensor], dependencies: Mapping[str, list[str]]
) -> Bijection:
    """Return the bijection of a run of the guide at leaves, after a check of its dimensions and its Jacobian."""
    points, arguments = list(dependencies), list(leaves.values())
    y = coordinates({name: value_of(run, name) for name in points}, model)
    count = flatten(arguments).shape[-1]
    if y.shape[-1] != count:
        kept = _with_new_draws(dependencies)
        if len(kept) < len(points):  # the other sites are functions of these sites: points without a density
            return _verified(run, model, leaves, kept)
        raise InputError(
            f"Guide site {points[0]!r} is a Delta of auxiliary draws. Its density is known if the map is one to one; "
            f"here {count} numbers of {', '.join(leaves)} become {y.shape[-1]} numbers of {', '.join(points)}. Draw "
            "the same number of numbers, or draw the site from a distribution with a density."
        )
    slopes = jacobian(y, arguments, diagonal=True)
    probe = torch.cos(torch.arange(1, count + 1, dtype=y.dtype, device=y.device))
    diagonal = bool(torch.allclose(jacobian(y * probe, arguments, diagonal=True), slopes * probe, rtol=1e-4, atol=1e-6))
    if diagonal or count <= MOST_NUMBERS:
        _require_log_density(run, model, points, _log_determinant(y, arguments, slopes, diagonal))
    is_chart = diagonal and bool(torch.allclose(slopes, torch.ones_like(slopes), rtol=1e-4))
    partners = _partners(run, model, dependencies) if is_chart else {}
    return Bijection(tuple(leaves), tuple(points), diagonal, partners)


def _with_new_draws(dependencies: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the Delta sites that depend on a draw on which no earlier Delta site depends."""
    known: set[str] = set()
    kept = {}
    for point, names in dependencies.items():
        if not known.issuperset(names):
            kept[point] = names
        known.update(names)
    return kept


def _partners(run: poutine.Trace, model: poutine.Trace, dependencies: Mapping[str, list[str]]) -> dict[str, str]:
    """Return, for each z that is the only transform of one u of the same shape to the support of z, this u."""
    every = [name for names in dependencies.values() for name in names]
    partners = {}
    for point, names in dependencies.items():
        y = chart_of(model.nodes[point]).inv(value_of(run, point))
        u = value_of(run, names[0])
        if len(names) == 1 and every.count(names[0]) == 1 and y.shape == u.shape and torch.allclose(y, u, rtol=1e-3):
            partners[point] = names[0]
    return partners


def _log_determinant(y: Tensor, arguments: Sequence[Tensor], slopes: Tensor, diagonal: bool) -> Tensor:
    """Return log |det dy/du|, a scalar; NaN if rounding makes the transform to the support flat at a draw."""
    if diagonal:
        is_flat = slopes == 0
        unknown = bool(is_flat.any()) and not bool(is_flat.all())
        return slopes.new_tensor(torch.nan) if unknown else slopes.abs().log().sum()
    return torch.linalg.slogdet(jacobian(y, arguments, diagonal=False)[0]).logabsdet


def _require_log_density(run: poutine.Trace, model: poutine.Trace, points: Sequence[str], log_det: Tensor) -> None:
    """Raise InputError for Delta sites with a log-density that is not minus log |det dz/du|."""
    found = expected = torch.zeros((), dtype=log_det.dtype, device=log_det.device)
    expected = expected - log_det
    for name in points:
        site: Site = run.nodes[name]
        chart = chart_of(model.nodes[name])
        if site["mask"] is not None or isinstance(site["fn"], dist.MaskedDistribution):
            return
        value = site["value"].detach()
        expected = expected - chart.log_abs_det_jacobian(chart.inv(value), value).sum()
        found = found + site["fn"].log_prob(site["value"]).sum().detach()
    for site in sample_sites(run):  # pyro.factor may hold the determinant
        if isinstance(base_distribution(site["fn"]), dist.Unit) and site["fn"].has_rsample:
            found = found + site["fn"].log_prob(site["value"]).sum().detach()
    is_near = bool((found - expected).abs() <= 1e-2 + 1e-3 * expected.abs())
    if bool(expected.isfinite()) and not is_near:
        raise InputError(
            f"Guide site {points[0]!r} is a Delta of auxiliary draws, and its log_density must be minus the log of the "
            f"map's Jacobian determinant, in all {float(expected):.4g} nats here; the guide gives {float(found):.4g}. "
            "Write Delta(value, log_density=-transform.log_abs_det_jacobian(u, value)), or correct it."
        )
    if bool(torch.isneginf(log_det)):
        raise InputError(
            f"Guide site {points[0]!r} is a Delta of auxiliary draws, and the map is not one to one: its Jacobian is "
            "singular. Draw the site from a distribution with a density."
        )
