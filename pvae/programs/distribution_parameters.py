"""The parameters of a distribution in unconstrained space: read, changed, and made into a distribution again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, transform_to

from pvae.errors import InputError

__all__ = ["free_parameters", "rebuilt"]

# of several ways to say the same, the one that is free of constraints or cheapest
_PREFERRED = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}


def _transform(constraint: Any) -> Any:
    """The transform from unconstrained space, or None for what is discrete or depends on other parameters."""
    try:
        return transform_to(constraint)
    except NotImplementedError:
        return None


def _names(name: str, density: Any) -> list[str]:
    """Parameters that can be moved: real ones, each said once."""
    if isinstance(density, dist.Delta):
        return ["v"]
    given = density.arg_constraints
    found = [each for each in given if _PREFERRED.get(each) not in given and _transform(given[each]) is not None]
    if not found:
        raise InputError(
            f"Guide site {name!r} has a {type(density).__name__}, which has no parameters of its own for each datum: "
            "use a distribution such as Normal, Beta or Categorical."
        )
    return found


def free_parameters(name: str, density: Any) -> tuple[str, tuple[str, ...]]:
    """Return the family of a site's distribution under its wrappers, and the parameters that can be moved."""
    while isinstance(density, torch.distributions.Independent | dist.MaskedDistribution):
        density = density.base_dist
    return type(density).__name__, tuple(_names(name, density))


def rebuilt(name: str, density: Any, change: Callable[[str, Tensor], Tensor]) -> Any:
    """Return a distribution of the same family and shape, its parameters changed in unconstrained space.

    Args:
        name: the site, for errors.
        density: a distribution of Pyro; wrappers that make events of dimensions, or mask, are kept.
        change: from a parameter's name and its unconstrained value to another of the same shape.

    Raises:
        InputError: for a distribution whose parameters cannot be changed.
    """
    if isinstance(density, torch.distributions.Independent):
        return rebuilt(name, density.base_dist, change).to_event(density.reinterpreted_batch_ndims)
    if isinstance(density, dist.MaskedDistribution):
        return rebuilt(name, density.base_dist, change).mask(density._mask)
    free = _names(name, density)
    settings: dict[str, Any] = {}
    for each, constraint in density.arg_constraints.items():
        if each in free:
            # a point may be anywhere: Pyro says no more of it than that
            to = transform_to(constraints.real) if isinstance(density, dist.Delta) else _transform(constraint)
            settings[each] = to(change(each, to.inv(getattr(density, each))))
        elif _PREFERRED.get(each) not in free:
            settings[each] = getattr(density, each)
    if isinstance(density, dist.Delta):
        settings["event_dim"] = density.event_dim
    return type(density)(**settings)
