"""The E-step and the M-step as functions of data, responsibilities and parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.em.base import CovarianceFamily, Mixture
from pvae.em.covariances.families import FAMILIES
from pvae.em.e_step import chunk_log_likelihoods
from pvae.em.initialisation.initial_statistics import make_equal_components, sum_statistics
from pvae.em.kernels.whitened_kernel import WhitenedKernel
from pvae.em.m_step import m_step
from pvae.em.prior import Prior
from pvae.em.rows.row_sources import as_tensor
from pvae.em.rows.standardise import standardiser_of_mixture
from pvae.errors import InputError
from pvae.names import unknown

__all__ = ["bound", "maximise", "mixture_of", "responsibilities"]


def mixture_of(weights: Any, means: Any, covariances: Any, covariance_type: str = "full") -> Mixture:
    """Return the mixture with the given parameters, float64.

    Args:
        weights: (components,), summing to 1.
        means: (components, features).
        covariances: full (components, features, features), tied (features, features), diag (components,
            features), spherical (components,); positive definite.
        covariance_type: ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.

    Raises:
        InputError: for shapes that do not fit each other, or covariances that are not positive definite.

    Example:
        >>> from pvae import em
        >>> mixture = em.mixture_of([0.5, 0.5], [[0.0, 0.0], [4.0, 4.0]], [1.0, 2.0], "spherical")
        >>> mixture.covariances
        tensor([1., 2.], dtype=torch.float64)
    """
    family = _find_family(covariance_type)
    weights, means, covariances = map(_as_double, (weights, means, covariances))
    shape = family.covariance_shape(*means.shape) if means.ndim == 2 else None
    if shape is None or weights.shape != means.shape[:1] or covariances.shape != shape:
        raise InputError(
            f"A {covariance_type} mixture needs weights (components,), means (components, features) and covariances "
            f"{shape}; got {tuple(weights.shape)}, {tuple(means.shape)} and {tuple(covariances.shape)}."
        )
    if bool(family.factor(covariances)[2].any()):
        raise InputError(
            "A mixture needs positive definite covariances; at least one of these is not. Add a positive number to "
            "the variances."
        )
    return family.make_mixture(weights, means, covariances)


def responsibilities(x: Any, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Run the E-step: compute the posterior of the components and the log-likelihood of each datum.

    Args:
        x: (data, features).
        mixture: the parameters.

    Returns:
        p(component given x), (data, components), and log p(x), (data,), nats; float64.

    Raises:
        InputError: for data of another shape, or values that are not finite.

    Example:
        >>> import torch
        >>> from pvae import em
        >>> mixture = em.mixture_of([0.5, 0.5], [[0.0], [4.0]], [[1.0], [1.0]], "diag")
        >>> shares, log_likelihood = em.responsibilities(torch.tensor([[0.0], [2.0]]), mixture)
        >>> shares.round(decimals=3)
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000]], dtype=torch.float64)
    """
    logits, log_likelihood = _compute_logits(_read_data(x, mixture.features), mixture)
    return torch.softmax(logits, 0).mT, log_likelihood


def bound(x: Any, shares: Any, mixture: Mixture) -> Tensor:
    """Return the lower bound E_q[log p(x, z) - log q(z)] of each datum for any q, (data,), nats; float64.

    The bound is log p(x) - KL(q to p(z given x)). The q of the E-step makes it equal to log p(x).

    Args:
        x: (data, features).
        shares: q(component) for each datum, (data, components).
        mixture: the parameters.

    Raises:
        InputError: for shapes that do not fit each other, values of x that are not finite, or a negative q.

    Example:
        >>> import torch
        >>> from pvae import em
        >>> mixture = em.mixture_of([0.5, 0.5], [[0.0], [4.0]], [[1.0], [1.0]], "diag")
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> posterior, log_likelihood = em.responsibilities(x, mixture)
        >>> bool(torch.allclose(em.bound(x, posterior, mixture), log_likelihood))  # tight at the posterior
        True
        >>> bool((em.bound(x, torch.full((2, 2), 0.5), mixture) < log_likelihood).all())  # below it elsewhere
        True
    """
    x = _read_data(x, mixture.features)
    q = _as_double(shares)
    _check_responsibilities(q, len(x), mixture.components)
    logits, log_likelihood = _compute_logits(x, mixture)
    log_joint = torch.log_softmax(logits, 0).mT + log_likelihood.unsqueeze(1)
    return torch.where(q > 0, q * (log_joint - q.log()), 0.0).sum(1)


def maximise(
    x: Any,
    shares: Any,
    *,
    covariance_type: str = "full",
    reg_covar: float = 0.0,
    sample_weight: Any = None,
    prior: Prior | None = None,
) -> Mixture:
    """Run the M-step: return the parameters that maximise the expected log joint density of data and components.

    With a prior, its log density is added to the objective (MAP-EM).

    Args:
        x: (data, features).
        shares: q(component) for each datum, (data, components); any q, not only that of the E-step.
        covariance_type: ``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``.
        reg_covar: added to each variance.
        sample_weight: number of times that each datum counts, (data,); by default 1.
        prior: of weights and covariances, in the units of the data; by default flat.

    Raises:
        InputError: for shapes that do not fit each other, or if a covariance is singular and reg_covar is 0.

    Example:
        >>> import torch
        >>> from pvae import em
        >>> x, shares = torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> mixture = em.maximise(x, shares, reg_covar=0.1)
        >>> mixture.means, mixture.weights
        (tensor([[0.5000],
                [4.0000]], dtype=torch.float64), tensor([0.6667, 0.3333], dtype=torch.float64))
    """
    family = _find_family(covariance_type)
    q = _as_double(shares)
    x = _read_data(x, None)
    _check_responsibilities(q, len(x), q.shape[-1])
    if sample_weight is not None:
        q = q * _as_double(sample_weight).unsqueeze(1)
    means = (q.mT @ x) / q.sum(0).clamp_min(torch.finfo(torch.float64).tiny).unsqueeze(1)
    statistics = sum_statistics(family, [(x.mT, q.mT)], means)
    regularisation = torch.full_like(means[0], float(reg_covar))
    previous = make_equal_components(family, means, x.var(0, correction=0), regularisation)
    return m_step(statistics, previous, regularisation, prior or Prior(), strict=True).mixture


def _compute_logits(x: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Return log w_k p(u given k) in standardised coordinates, (components, data), and log p(x), (data,)."""
    standardiser = standardiser_of_mixture(mixture)
    kernel = WhitenedKernel(standardiser.standardise(mixture), torch.float64)
    u = ((x - standardiser.shift) / standardiser.scale).mT
    return kernel.logits(u), chunk_log_likelihoods(kernel, u) - standardiser.log_scale()


def _find_family(name: str) -> CovarianceFamily:
    if name not in FAMILIES:
        raise unknown("covariance_type", str(name), FAMILIES)
    return FAMILIES[name]


def _as_double(values: Any) -> Tensor:
    return as_tensor(values if isinstance(values, Tensor) else np.asarray(values, dtype=np.float64)).double()


def _read_data(x: Any, features: int | None) -> Tensor:
    """Return data as float64, (data, features); any number of features if `features` is None."""
    data = _as_double(x)
    if data.ndim != 2 or features not in (None, data.shape[1]) or not bool(data.isfinite().all()):
        needed = "features" if features is None else features
        raise InputError(f"x needs finite numbers of shape (data, {needed}); got shape {tuple(data.shape)}.")
    return data


def _check_responsibilities(q: Tensor, rows: int, components: int) -> None:
    if q.shape != (rows, components) or not bool((q >= 0).all()):
        raise InputError(
            f"Responsibilities need the shape ({rows}, {components}) and numbers from 0 up; got shape "
            f"{tuple(q.shape)} with smallest number {float(q.min()) if q.numel() else float('nan'):g}."
        )
