"""Compare the supports of two distributions, without regard to boundaries that have probability 0."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pvae.programs.sites import Site, base_distribution

__all__ = ["describe_support", "have_same_support", "support_of"]

_BOUNDED = (
    constraints.integer_interval,
    type(constraints.nonnegative_integer),
    type(constraints.less_than(0)),
    type(constraints.positive),
    type(constraints.nonnegative),
    constraints.interval,
    constraints.half_open_interval,
)
_UNBOUNDED = (type(constraints.real), type(dist.constraints.integer))
_JOINED = (constraints.cat, constraints.stack)


def support_of(site: Site) -> Any:
    """Return the support of a site's distribution; None if it declares no support, for example for wrapped flows."""
    try:
        return site["fn"].support
    except (AttributeError, NotImplementedError):
        return None


def describe_support(support: Any) -> str:
    """Return a support as text, without wrappers of the constraint (independent, mixture)."""
    return str(_without_wrappers(support))


def have_same_support(one: Site, other: Site) -> bool:
    """Return whether two sites have the same support, or one of them is a Delta, which has a single value.

    A boundary does not count (``positive`` and ``nonnegative``), nor does the name of a support (``boolean`` and the
    integers from 0 to 1). A site that declares no support is equal to every other site.

    Args:
        one: a site.
        other: another site.
    """
    if any(isinstance(base_distribution(site["fn"]), dist.Delta) for site in (one, other)):
        return True
    supports = support_of(one), support_of(other)
    return None in supports or _are_equal(*supports)


def _without_wrappers(support: Any) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if isinstance(support, _JOINED):
        first, *rest = support.cseq
        if all(_are_equal(first, part) for part in rest):
            return _without_wrappers(first)
    return support


def _are_equal(one: Any, other: Any) -> bool:
    one, other = _without_wrappers(one), _without_wrappers(other)
    if isinstance(one, _JOINED) and isinstance(other, _JOINED):
        pairs = zip(one.cseq, other.cseq, strict=False)
        return len(one.cseq) == len(other.cseq) and all(_are_equal(*parts) for parts in pairs)
    span, other_span = _span(one), _span(other)
    if span is None or other_span is None:
        return isinstance(one, type(other)) or isinstance(other, type(one))
    is_discrete, *bounds = span
    other_is_discrete, *other_bounds = other_span
    return is_discrete == other_is_discrete and all(map(_is_same_bound, bounds, other_bounds))


def _span(support: Any) -> tuple[bool, Any, Any] | None:
    """Return whether a support on the line is discrete, and its bounds; None for a support of another kind."""
    if isinstance(support, type(constraints.boolean)):
        return True, 0, 1
    if isinstance(support, _UNBOUNDED):
        return bool(support.is_discrete), -math.inf, math.inf
    if isinstance(support, _BOUNDED):
        lower, upper = getattr(support, "lower_bound", -math.inf), getattr(support, "upper_bound", math.inf)
        return bool(support.is_discrete), lower, upper
    return None


def _is_same_bound(one: Tensor | float, other: Tensor | float) -> bool:
    """Return whether two bounds are equal up to rounding, entry by entry."""
    one, other = torch.as_tensor(one).double().cpu(), torch.as_tensor(other).double().cpu()
    try:
        return bool(torch.isclose(one, other, rtol=1e-5, atol=1e-6).all())
    except RuntimeError:  # shapes that do not broadcast
        return False
