"""The M-step: parameters from sufficient statistics, with regularisation, priors, empty components and collapse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from pvae.em.base import Mixture, Statistics, factor_matrices
from pvae.em.prior import Prior
from pvae.errors import InputError

__all__ = ["MStepResult", "m_step"]

EPS = torch.finfo(torch.float64).eps
#: The message of scikit-learn, which people search for.
SINGULAR = (
    "Fitting the mixture model failed because some components have ill-defined empirical covariance (for instance "
    "caused by singleton or collapsed samples). Try to decrease the number of components, increase reg_covar, or "
    "scale the input data."
)


@dataclass(frozen=True)
class MStepResult:
    """The result of an M-step.

    Attributes:
        mixture: the new parameters.
        is_empty: components without data, which keep their means and covariances, (components,) bool.
        is_floored: components with data for which the covariance had no Cholesky factor and was raised until it had
            one, (components,) bool.
    """

    mixture: Mixture
    is_empty: Tensor
    is_floored: Tensor


def m_step(
    statistics: Statistics, previous: Mixture, regularisation: Tensor, prior: Prior, *, strict: bool = False
) -> MStepResult:
    """Return the parameters that maximise the expected log joint density plus the log prior.

    Args:
        statistics: of all data.
        previous: an empty component keeps the mean and covariance that it has here.
        regularisation: added to each variance, (features,).
        prior: of weights and covariances.
        strict: raise an error for a singular covariance where there is no regularisation; otherwise the covariance
            is raised to the least that rounding allows.

    Raises:
        InputError: if `strict` and a covariance is singular; the message names component and feature.
    """
    family = previous.family
    counts = statistics.counts
    is_empty = counts <= 10 * EPS * counts.sum().clamp_max(1.0)
    safe_counts = torch.where(is_empty, 1.0, counts)
    offset = statistics.first_moments / safe_counts.unsqueeze(1)
    means = torch.where(is_empty.unsqueeze(1), previous.means, statistics.origins + offset)
    scatter = family.centre_second_moments(statistics.second_moments, counts, offset)
    covariances = prior.covariances(scatter, counts if family.name == "tied" else safe_counts, previous)
    covariances = family.add_diagonal(regularisation, covariances)
    covariances = _keep_empty(covariances, is_empty, previous)
    roots, whitening, failed = family.factor(covariances)
    if strict and bool((regularisation == 0).any()) and prior.scale is None:
        _check_singular(covariances, means, failed, previous)
    if bool(failed.any()):
        floor = regularisation.maximum(4 * _rounding_variance(means).amax(0))
        covariances = _raise_to_floor(covariances, floor, previous)
        roots, whitening, _ = family.factor(covariances)
    weights = prior.weights(counts.where(~is_empty, 0.0))
    mixture = Mixture(family, weights, means, covariances, whitening, roots)
    return MStepResult(mixture, is_empty, failed.expand(len(counts)) & ~is_empty)


def _keep_empty(covariances: Tensor, is_empty: Tensor, previous: Mixture) -> Tensor:
    """Return covariances in which empty components have their previous covariances; tied ones are unchanged."""
    if previous.family.name == "tied" or not bool(is_empty.any()):
        return covariances
    mask = is_empty.reshape(-1, *[1] * (covariances.ndim - 1))
    return torch.where(mask, previous.covariances, covariances)


def _rounding_variance(means: Tensor) -> Tensor:
    """Return the variance that rounding of the means can cause, (components, features)."""
    return (8 * EPS) ** 2 * (1 + means.square())


def _raise_to_floor(covariances: Tensor, floor: Tensor, mixture: Mixture) -> Tensor:
    """Return covariances with at least the variance `floor`, (features,), in every direction.

    In exact arithmetic the covariances would be at least reg_covar, so that this restores what rounding took away.
    """
    family = mixture.family
    if family.name in ("diag", "spherical"):
        lowest = family.add_diagonal(floor, torch.zeros_like(covariances))
        return covariances.nan_to_num(0.0).maximum(lowest.expand_as(covariances))
    root = floor.sqrt()
    values, vectors = torch.linalg.eigh((covariances / root.unsqueeze(1) / root).nan_to_num(0.0))
    # Slightly above the floor: the product below rounds, and must still have a Cholesky factor.
    values = values.clamp_min(1 + 1e-6).maximum(values.amax(-1, keepdim=True) * 16 * EPS * len(floor))
    raised = (vectors * values.unsqueeze(-2)) @ vectors.mT * root.unsqueeze(1) * root
    return torch.where(family.factor(covariances)[2][..., None, None], raised, covariances)


def _check_singular(covariances: Tensor, means: Tensor, failed: Tensor, mixture: Mixture) -> None:
    """Raise InputError if a covariance has a direction without variance, up to rounding."""
    components, features = means.shape
    dense = mixture.family.to_dense(covariances, components, features)
    variances = dense.diagonal(dim1=1, dim2=2)
    is_singular = ~(variances > _rounding_variance(means))
    if mixture.family.name in ("full", "tied"):
        is_singular = is_singular | _dependent_features(dense, variances, is_singular)
    is_singular = is_singular | (failed.expand(components).unsqueeze(1) & ~is_singular.any(1, keepdim=True))
    if bool(is_singular.any()):
        _raise_singular(is_singular)


def _dependent_features(dense: Tensor, variances: Tensor, is_constant: Tensor) -> Tensor:
    """Return which features are linear functions of the features before them, up to rounding.

    Args:
        dense: covariances, (components, features, features).
        variances: their diagonals, (components, features).
        is_constant: features without variance, (components, features) bool.

    Returns:
        (components, features) bool.
    """
    deviations = torch.where(is_constant, 1.0, variances).sqrt()
    correlations = dense / deviations.unsqueeze(2) / deviations.unsqueeze(1)
    roots, _, failed = factor_matrices(correlations.nan_to_num(0.0))
    # The square of a diagonal entry is the variance of a feature that is left given the features before it.
    is_small = roots.diagonal(dim1=1, dim2=2).square() <= 4 * dense.shape[-1] * EPS
    return is_small | (failed.unsqueeze(1) & ~is_constant.any(1, keepdim=True))


def _raise_singular(is_singular: Tensor) -> NoReturn:
    component, feature = is_singular.nonzero()[0].tolist()
    more_components = int(is_singular.any(1).sum()) - 1
    more = f" (and {more_components} more)" if more_components else ""
    raise InputError(
        f"{SINGULAR} Component {component}{more} has no variance left in feature {feature}, and reg_covar is 0."
    )
