"""The parameters of a distribution in unconstrained space, and distributions with other parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, transform_to

from pvae.errors import InputError
from pvae.programs.sites import base_distribution

__all__ = ["free_parameters", "parameter_names", "with_parameters"]

# Of several parameters with the same meaning, the value is the parameter without constraints, or the cheapest.
_PREFERRED = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}


def _transform(constraint: Any) -> Any:
    """Return the transform from unconstrained space; None for a discrete or a dependent constraint."""
    try:
        return transform_to(constraint)
    except NotImplementedError:
        return None


def parameter_names(distribution: Any) -> list[str]:
    """Return the names of the parameters of a distribution without wrappers, each meaning once; ``v`` of a Delta."""
    if isinstance(distribution, dist.Delta):
        return ["v"]
    names = distribution.arg_constraints
    return [name for name in names if _PREFERRED.get(name) not in names]


def _changeable_names(site_name: str, distribution: Any) -> list[str]:
    """Return the names of the parameters that can be changed: real-valued parameters, each meaning once."""
    constraints_of = distribution.arg_constraints
    is_point = isinstance(distribution, dist.Delta)
    names = [name for name in parameter_names(distribution) if is_point or _transform(constraints_of[name]) is not None]
    if not names:
        raise InputError(
            f"Guide site {site_name!r} has a {type(distribution).__name__}, which has no separate parameters for each "
            "datum. Use a distribution with real-valued parameters, such as Normal, Beta or Categorical."
        )
    return names


def free_parameters(name: str, density: Any) -> tuple[str, tuple[str, ...]]:
    """Return the family of a site's distribution without wrappers, and the names of the parameters to change.

    Args:
        name: the name of the site, for errors.
        density: a distribution of Pyro.

    Raises:
        InputError: for a distribution without parameters that can be changed.
    """
    base = base_distribution(density)
    return type(base).__name__, tuple(_changeable_names(name, base))


def with_parameters(name: str, density: Any, change: Callable[[str, Tensor], Tensor]) -> Any:
    """Return a distribution of the same family and shape, with parameters changed in unconstrained space.

    Args:
        name: the name of the site, for errors.
        density: a distribution of Pyro; `Independent` and `Masked` wrappers are kept.
        change: a function of the name and the unconstrained value of a parameter, that returns a value of the same
            shape.

    Raises:
        InputError: for a distribution without parameters that can be changed.
    """
    if isinstance(density, torch.distributions.Independent):
        return with_parameters(name, density.base_dist, change).to_event(density.reinterpreted_batch_ndims)
    if isinstance(density, dist.MaskedDistribution):
        return with_parameters(name, density.base_dist, change).mask(density._mask)
    changeable = _changeable_names(name, density)
    settings: dict[str, Any] = {}
    for parameter, constraint in density.arg_constraints.items():
        if parameter in changeable:
            # Pyro declares a Delta's value as dependent; a point may be any real value.
            transform = transform_to(constraints.real) if isinstance(density, dist.Delta) else _transform(constraint)
            settings[parameter] = transform(change(parameter, transform.inv(getattr(density, parameter))))
        elif _PREFERRED.get(parameter) not in changeable:
            settings[parameter] = getattr(density, parameter)
    if isinstance(density, dist.Delta):
        settings["event_dim"] = density.event_dim
    return type(density)(**settings)
