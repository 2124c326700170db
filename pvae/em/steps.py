"""The E-step and the M-step as functions of data, responsibilities and parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.em.base import Mixture
from pvae.em.families import FAMILIES
from pvae.em.frame import frame_of
from pvae.em.passes import log_likelihoods
from pvae.em.routes import Whitened
from pvae.em.row_sources import as_tensor
from pvae.em.starts import fallback, moments_of
from pvae.em.updates import Prior, maximised
from pvae.errors import InputError
from pvae.names import unknown

__all__ = ["bound", "maximise", "mixture_of", "responsibilities"]


def mixture_of(weights: Any, means: Any, covariances: Any, covariance_type: str = "full") -> Mixture:
    """Return a mixture of given parameters.

    Args:
        weights: (components,), summing to 1.
        means: (components, features).
        covariances: full (components, features, features), tied (features, features), diag (components,
            features), spherical (components,); positive definite.
        covariance_type: ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.

    Raises:
        InputError: for shapes that do not fit each other, or covariances that are not positive definite.
    """
    family = _family(covariance_type)
    weights, means, covariances = map(_double, (weights, means, covariances))
    shape = family.shape(*means.shape) if means.ndim == 2 else None
    if shape is None or weights.shape != means.shape[:1] or covariances.shape != shape:
        raise InputError(
            f"A {covariance_type} mixture needs weights (components,), means (components, features) and covariances "
            f"{shape}; got {tuple(weights.shape)}, {tuple(means.shape)} and {tuple(covariances.shape)}."
        )
    if bool(family.factor(covariances)[2].any()):
        raise InputError("Covariances need to be positive definite; these are not.")
    return family.mixture(weights, means, covariances)


def responsibilities(x: Any, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Return the E-step: p(component given x), (data, components), and log p(x), (data,), nats; float64.

    Args:
        x: (data, features).
        mixture: the parameters.
    """
    logits, log_likelihood = _logits(_data(x, mixture.features), mixture)
    return torch.softmax(logits, 0).mT, log_likelihood


def bound(x: Any, shares: Any, mixture: Mixture) -> Tensor:
    """Return the lower bound E_q[log p(x, z) - log q(z)] of each datum for any q, (data,), nats; float64.

    It is log p(x) - KL(q to p(z given x)), so that the E-step's q makes it log p(x).

    Args:
        x: (data, features).
        shares: q(component) for each datum, (data, components).
        mixture: the parameters.
    """
    x, q = _data(x, mixture.features), _double(shares)
    _check_shares(q, len(x), mixture.components)
    logits, log_likelihood = _logits(x, mixture)
    joint = torch.log_softmax(logits, 0).mT + log_likelihood.unsqueeze(1)
    return torch.where(q > 0, q * (joint - q.log()), 0.0).sum(1)


def maximise(
    x: Any,
    shares: Any,
    *,
    covariance_type: str = "full",
    reg_covar: float = 0.0,
    sample_weight: Any = None,
    prior: Prior | None = None,
) -> Mixture:
    """Return the M-step: the parameters that maximise the expected log joint density of data and components.

    With a prior it is that of MAP-EM: its log density is added.

    Args:
        x: (data, features).
        shares: q(component) for each datum, (data, components); any q, not only the E-step's.
        covariance_type: ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
        reg_covar: added to each variance.
        sample_weight: how often each datum counts, (data,); by default once.
        prior: of weights and covariances, in the units of the data; by default flat.

    Raises:
        InputError: where a covariance is singular and reg_covar is 0.
    """
    family, q = _family(covariance_type), _double(shares)
    x = _data(x, None)
    _check_shares(q, len(x), q.shape[-1])
    if sample_weight is not None:
        q = q * _double(sample_weight).unsqueeze(1)
    means = (q.mT @ x) / q.sum(0).clamp_min(torch.finfo(torch.float64).tiny).unsqueeze(1)
    statistics = moments_of(family, [(x.mT, q.mT)], means)
    regularisation = torch.full_like(means[0], float(reg_covar))
    kept = fallback(family, means, x.var(0, correction=0), regularisation)
    return maximised(statistics, kept, regularisation, prior or Prior(), strict=True).mixture


def _logits(x: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    frame = frame_of(mixture)
    route = Whitened(frame.inside(mixture), torch.float64)
    u = ((x - frame.shift) / frame.scale).mT
    return route.logits(u), log_likelihoods(route, u) - frame.log_scale()


def _family(name: str) -> Any:
    if name not in FAMILIES:
        raise unknown("covariance_type", str(name), FAMILIES)
    return FAMILIES[name]


def _double(values: Any) -> Tensor:
    return as_tensor(values if isinstance(values, Tensor) else np.asarray(values, dtype=np.float64)).double()


def _data(x: Any, features: int | None) -> Tensor:
    found = _double(x)
    if found.ndim != 2 or features not in (None, found.shape[1]) or not bool(found.isfinite().all()):
        needed = "features" if features is None else features
        raise InputError(f"x needs finite numbers of shape (data, {needed}); got shape {tuple(found.shape)}.")
    return found


def _check_shares(q: Tensor, count: int, components: int) -> None:
    if q.shape != (count, components) or not bool((q >= 0).all()):
        raise InputError(
            f"Responsibilities need the shape ({count}, {components}) and numbers from 0 up; got {tuple(q.shape)}."
        )
