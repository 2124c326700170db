"""The M-step: parameters from sufficient statistics, with regularisation, priors, and what to do where data fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from pvae.em.base import Mixture, Statistics, cholesky
from pvae.errors import InputError

__all__ = ["Prior", "Update", "maximised"]

EPS = torch.finfo(torch.float64).eps
#: scikit-learn's own words, which people search for.
SINGULAR = (
    "Fitting the mixture model failed because some components have ill-defined empirical covariance (for instance "
    "caused by singleton or collapsed samples). Try to decrease the number of components, increase reg_covar, or "
    "scale the input data."
)


@dataclass(frozen=True)
class Prior:
    """A Dirichlet prior of the weights and an inverse Wishart prior of the covariances, for MAP estimates.

    Attributes:
        concentration: the Dirichlet's, at least 1; 1 is flat.
        scale: the inverse Wishart's scale matrix, (features, features), or None for no prior of covariances.
        degrees: its degrees of freedom, above features - 1.
    """

    concentration: float = 1.0
    scale: Tensor | None = None
    degrees: float = 0.0

    def log_density(self, mixture: Mixture) -> Tensor:
        """Return the log density at a mixture, up to a constant of the data, nats.

        On restricted covariances it is the density of the matrix that they stand for. A tied covariance counts once.
        """
        total = (self.concentration - 1) * mixture.weights.clamp_min(1e-300).log().sum()
        if self.scale is None:
            return total
        family, (components, features) = mixture.family, mixture.means.shape
        each = 1 if family.name == "tied" else components
        whitening = family.dense(mixture.whitening, each, features)
        traces = (whitening * (self.scale @ whitening)).sum((1, 2))
        log_dets = family.log_det(mixture.whitening, features)
        return total + (self._weight(features) * log_dets - 0.5 * traces).sum()

    def _weight(self, features: int) -> float:
        return self.degrees + features + 1

    def weights(self, counts: Tensor) -> Tensor:
        """Return the mode of the weights given the counts."""
        shares = counts + (self.concentration - 1)
        return shares / shares.sum()

    def covariances(self, scatter: Tensor, counts: Tensor, mixture: Mixture) -> Tensor:
        """Return the mode of the covariances given second moments about the means."""
        family, features = mixture.family, mixture.features
        if self.scale is None:
            return family.divided(scatter, counts, features)
        each = 1 if family.name == "tied" else len(counts)
        scatter = scatter + family.restrict(self.scale.expand(each, features, features))
        pseudo = self._weight(features) / (len(counts) if each == 1 else 1)
        return family.divided(scatter, counts + pseudo, features)


@dataclass(frozen=True)
class Update:
    """The outcome of an M-step.

    Attributes:
        mixture: the new parameters.
        empty: components that no datum is in, which keep their means and covariances, (components,) bool.
        floored: components whose covariance had no Cholesky factor and got one, (components,) bool.
    """

    mixture: Mixture
    empty: Tensor
    floored: Tensor


def maximised(
    statistics: Statistics, previous: Mixture, regularisation: Tensor, prior: Prior, *, strict: bool = False
) -> Update:
    """Return the parameters that maximise the expected log joint density.

    Args:
        statistics: of all data.
        previous: whose means and covariances an empty component keeps.
        regularisation: added to each variance, (features,).
        prior: of weights and covariances.
        strict: a singular covariance is an error where there is no regularisation; else it is raised to what
            rounding allows.

    Raises:
        InputError: where `strict`, for a singular covariance; names component and feature.
    """
    family, counts = previous.family, statistics.counts
    empty = counts <= 10 * EPS * counts.sum().clamp_max(1.0)
    safe = torch.where(empty, 1.0, counts)
    step = statistics.first / safe.unsqueeze(1)
    means = torch.where(empty.unsqueeze(1), previous.means, statistics.about + step)
    scatter = family.centred(statistics.second, counts, step)
    covariances = prior.covariances(scatter, counts if family.name == "tied" else safe, previous)
    covariances = family.add_diagonal(regularisation, covariances)
    if family.name != "tied" and bool(empty.any()):
        lost = empty.reshape(-1, *[1] * (covariances.ndim - 1))
        covariances = torch.where(lost, previous.covariances, covariances)
    roots, whitening, failed = family.factor(covariances)
    if strict and bool((regularisation == 0).any()) and prior.scale is None:
        _refuse_singular(covariances, means, failed, previous)
    if bool(failed.any()):
        covariances = _floored(covariances, regularisation.maximum(4 * _blur(means).amax(0)), previous)
        roots, whitening, _ = family.factor(covariances)
    weights = prior.weights(counts.where(~empty, 0.0))
    mixture = Mixture(family, weights, means, covariances, whitening, roots)
    return Update(mixture, empty, failed.expand(len(counts)) & ~empty)


def _blur(means: Tensor) -> Tensor:
    """Return the variance that is rounding: means are known to its square root, (components, features)."""
    return (8 * EPS) ** 2 * (1 + means.square())


def _floored(covariances: Tensor, floor: Tensor, mixture: Mixture) -> Tensor:
    """Return covariances of at least the floor in every direction; exact arithmetic gives at least reg_covar."""
    family = mixture.family
    if family.name in ("diag", "spherical"):
        lowest = family.add_diagonal(floor, torch.zeros_like(covariances))
        return covariances.nan_to_num(0.0).maximum(lowest.expand_as(covariances))
    root = floor.sqrt()
    values, vectors = torch.linalg.eigh((covariances / root.unsqueeze(1) / root).nan_to_num(0.0))
    # A little above the floor, so that rounding on the way back leaves a Cholesky factor.
    values = values.clamp_min(1 + 1e-6).maximum(values.amax(-1, keepdim=True) * 16 * EPS * len(floor))
    raised = (vectors * values.unsqueeze(-2)) @ vectors.mT * root.unsqueeze(1) * root
    return torch.where(family.factor(covariances)[2][..., None, None], raised, covariances)


def _refuse_singular(covariances: Tensor, means: Tensor, failed: Tensor, mixture: Mixture) -> None:
    """Raise where a covariance has a direction of no variance, up to rounding; name component and feature."""
    family, (components, features) = mixture.family, means.shape
    dense = family.dense(covariances, components, features)
    variances = dense.diagonal(dim1=1, dim2=2)
    blurred = ~(variances > _blur(means))
    pivots = blurred
    if family.name in ("full", "tied"):
        deviations = torch.where(blurred, 1.0, variances).sqrt()
        correlations = dense / deviations.unsqueeze(2) / deviations.unsqueeze(1)
        roots, _, broken = cholesky(correlations.nan_to_num(0.0))
        small = roots.diagonal(dim1=1, dim2=2).square() <= 4 * features * EPS
        pivots = blurred | small | (broken.unsqueeze(1) & ~blurred.any(1, keepdim=True))
    pivots = pivots | (failed.expand(components).unsqueeze(1) & ~pivots.any(1, keepdim=True))
    if bool(pivots.any()):
        _refuse(pivots)


def _refuse(pivots: Tensor) -> NoReturn:
    component, feature = pivots.nonzero()[0].tolist()
    others = int(pivots.any(1).sum()) - 1
    more = f" (and {others} more)" if others else ""
    raise InputError(
        f"{SINGULAR} Component {component}{more} has no variance left in feature {feature}, and reg_covar is 0."
    )
