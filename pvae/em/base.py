"""The values that all of EM uses: the parameters of a mixture, its sufficient statistics, a family of covariances."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from pvae.products.libraries import BatchedProduct

__all__ = [
    "LOG_2PI",
    "CovarianceFamily",
    "Mixture",
    "Statistics",
    "factor_matrices",
    "mixture_from_whitening",
    "whitening_from_precisions",
]

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Mixture:
    """Parameters of a Gaussian mixture, float64.

    Attributes:
        family: the family of the covariances.
        weights: (components,), summing to 1.
        means: (components, features).
        covariances: full (components, features, features), tied (features, features), diag
            (components, features), spherical (components,).
        whitening: the matrices W for which y = (x - mean) W has unit covariance, in the shape of the covariances:
            upper triangular, or positive numbers. It is scikit-learn's ``precisions_cholesky_``.
        roots: the inverse of W transposed: the lower Cholesky factors of the covariances, or standard deviations.

    Example:
        >>> from pvae import em
        >>> mixture = em.mixture_of([0.5, 0.5], [[0.0], [4.0]], [[1.0], [1.0]], "diag")
        >>> mixture.means
        tensor([[0.],
                [4.]], dtype=torch.float64)
    """

    family: CovarianceFamily
    weights: Tensor
    means: Tensor
    covariances: Tensor
    whitening: Tensor
    roots: Tensor

    @property
    def components(self) -> int:
        """Number of components."""
        return self.means.shape[0]

    @property
    def features(self) -> int:
        """Number of features."""
        return self.means.shape[1]

    def log_scale(self) -> Tensor:
        """Return the log weight plus the log normalising constant of each Gaussian, (components,)."""
        # A component without data has weight 0. The floor keeps its logit finite and its responsibilities at 0.
        log_weights = self.weights.clamp_min(1e-300).log()
        log_det = self.family.whitening_log_det(self.whitening, self.features)
        return log_weights - 0.5 * self.features * LOG_2PI + log_det

    def take(self, order: Tensor) -> Mixture:
        """Return the mixture of the selected components.

        Args:
            order: indices of components, (selected,).
        """
        selected = replace(self, weights=self.weights[order], means=self.means[order])
        if self.family.name == "tied":
            return selected
        return replace(
            selected,
            covariances=self.covariances[order],
            whitening=self.whitening[order],
            roots=self.roots[order],
        )


@dataclass(frozen=True)
class Statistics:
    """Weighted moments of data under responsibilities r, float64. The statistics of two parts of the data add up.

    Attributes:
        counts: sum of r, (components,).
        first_moments: sum of r (x - origin), (components, features).
        second_moments: sum of r (x - origin)(x - origin)', in the shape of the covariances; spherical covariances
            keep the sum over features.
        origins: the points from which x is measured, (components, features).
        log_likelihood: sum of log p(x), (), nats.
        weight: sum of the sample weights, ().
    """

    counts: Tensor
    first_moments: Tensor
    second_moments: Tensor
    origins: Tensor
    log_likelihood: Tensor
    weight: Tensor

    def __add__(self, other: Statistics) -> Statistics:
        """Return the statistics of both parts of the data, which must have the same origins."""
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in self.summed_names()})

    def scale(self, factor: float) -> Statistics:
        """Return the statistics of the same data with all sample weights multiplied by `factor`."""
        return replace(self, **{name: getattr(self, name) * factor for name in self.summed_names()})

    @classmethod
    def summed_names(cls) -> list[str]:
        """Return the names of the attributes that are sums over the data: all but the origins."""
        return [attribute.name for attribute in fields(cls) if attribute.name != "origins"]


class CovarianceFamily(ABC):
    """A family of covariances: the computations in which EM differs between families. Instances hold no state.

    An E-step has two ways to compute. The methods with `phi` use exponential-family features phi(x), for instance
    [1, x, x x']: two matrix products serve all components, which is fast, but squares cancel. `whiten`,
    `weighted_second_moments` and `unwhiten` work in the whitened coordinates of each component, which stays accurate
    where components are narrow.

    These arguments have the same meaning in all methods. `covariances`, `whitening` and `roots` are those of `Mixture`.
    Second moments, `second` and `scatter`, have the shape of the covariances, but the tied family keeps their sum over
    components, and the spherical family their sum over features. First moments, `first`, have the shape
    (components, features), and `counts` has the shape (components,).
    """

    name: ClassVar[str]

    @abstractmethod
    def covariance_shape(self, components: int, features: int) -> tuple[int, ...]:
        """Return the shape of the covariances, as listed at `Mixture.covariances`."""

    @abstractmethod
    def count_parameters(self, components: int, features: int) -> int:
        """Return the number of free parameters of the covariances."""

    @abstractmethod
    def phi_size(self, features: int) -> int:
        """Return the number of exponential-family features of a datum."""

    @abstractmethod
    def write_phi(self, x: Tensor, phi: Tensor) -> None:
        """Write the exponential-family features of x, (features, batch), over `phi`, (phi_size, batch)."""

    def phi_products(self, x: Tensor, phi: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the products that `write_phi` computes, as views of `x` and `phi`; by default none.

        Making a view takes longer than a small product. Memory that is written many times needs its views only once.

        Args:
            x: (features, batch).
            phi: (phi_size, batch).

        Returns:
            Left factor, right factor and destination of each product.
        """
        return []

    @abstractmethod
    def natural_parameters(self, mixture: Mixture) -> Tensor:
        """Return the matrix whose product with phi(x) is log w_k p(x given k), (components, phi_size)."""

    @abstractmethod
    def moments_from_phi(self, sums: Tensor, features: int, outer_sum: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return first and second moments about 0.

        Args:
            sums: sum of r phi(x), (components, phi_size).
            features: number of features of x.
            outer_sum: sum of x x' over the data, (features, features); only tied covariances need it.
        """

    @abstractmethod
    def whitening_log_det(self, whitening: Tensor, features: int) -> Tensor:
        """Return log |W|, which is minus half of log |covariance|, (components,) or ()."""

    @abstractmethod
    def whiten(self, deviations: Tensor, whitening: Tensor, multiply: BatchedProduct, out: Tensor) -> Tensor:
        """Return y = W' d in `out` for deviations d from the means, both (components, features, batch)."""

    @abstractmethod
    def weighted_second_moments(self, y: Tensor, weighted: Tensor, multiply: BatchedProduct = torch.bmm) -> Tensor:
        """Return the sum of r y y' over a batch, in the shape of the covariances.

        Args:
            y: (components, features, batch).
            weighted: r y, (components, features, batch).
            multiply: computes matrix products.
        """

    @abstractmethod
    def unwhiten(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        """Return first and second moments of whitened data in the coordinates of the data, in the same shapes."""

    @abstractmethod
    def shift_second_moments(self, second: Tensor, first: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        """Return second moments about origins that are moved by `offset`, (components, features)."""

    @abstractmethod
    def centre_second_moments(self, second: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        """Return second moments about the means, which are the origins plus `offset`, (components, features)."""

    @abstractmethod
    def covariances_from_scatter(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        """Return the covariances: second moments about the means divided by the counts, (components,)."""

    @abstractmethod
    def add_diagonal(self, values: Tensor, covariances: Tensor) -> Tensor:
        """Return covariances with `values`, (features,), added to the variances; may change them in place."""

    @abstractmethod
    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return roots and whitening, and a mask of components without a Cholesky factor, (components,) or () bool."""

    @abstractmethod
    def precision_diagonal(self, whitening: Tensor) -> Tensor:
        """Return the diagonal of the precisions, broadcastable to (components, features)."""

    @abstractmethod
    def scale_covariances(self, covariances: Tensor, scale: Tensor) -> Tensor:
        """Return the covariances of data whose features are multiplied by `scale`, (features,)."""

    @abstractmethod
    def scale_whitening(self, whitening: Tensor, scale: Tensor) -> Tensor:
        """Return the whitening of data whose features are multiplied by `scale`, (features,)."""

    @abstractmethod
    def to_dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        """Return covariances, or roots or whitening, as (components, features, features)."""

    @abstractmethod
    def from_dense(self, second: Tensor) -> Tensor:
        """Return dense second moments, (components, features, features), in the form that this family keeps."""

    @property
    def needs_outer_sum(self) -> bool:
        """Whether `moments_from_phi` needs the sum of x x' over the data."""
        return False

    def make_mixture(self, weights: Tensor, means: Tensor, covariances: Tensor) -> Mixture:
        """Return the mixture of these parameters, computing its whitening and roots.

        Args:
            weights: (components,), summing to 1.
            means: (components, features).
            covariances: positive definite, in the shape of `covariance_shape`.
        """
        roots, whitening, _ = self.factor(covariances)
        return Mixture(self, weights, means, covariances, whitening, roots)


def factor_matrices(covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return lower Cholesky factors, whitening and a mask of the matrices that have no factor.

    Args:
        covariances: (..., features, features).

    Returns:
        Roots and whitening, both (..., features, features), and the mask, (...), bool.
    """
    roots, info = torch.linalg.cholesky_ex(covariances)
    failed = (info != 0) | ~torch.isfinite(roots).all(-1).all(-1)
    identity = torch.eye(covariances.shape[-1], dtype=covariances.dtype, device=covariances.device)
    whitening = torch.linalg.solve_triangular(roots, identity.expand_as(roots), upper=False).mT
    return roots, whitening.contiguous(), failed


def mixture_from_whitening(family: CovarianceFamily, weights: Tensor, means: Tensor, whitening: Tensor) -> Mixture:
    """Return the mixture with precisions W W' for a whitening W.

    Args:
        family: the family of the covariances.
        weights: (components,), summing to 1.
        means: (components, features).
        whitening: in the shape of the covariances.
    """
    if family.name in ("diag", "spherical"):
        roots = whitening.reciprocal()
        return Mixture(family, weights, means, roots.square(), whitening, roots)
    identity = torch.eye(means.shape[1], dtype=whitening.dtype, device=whitening.device).expand_as(whitening)
    roots = torch.linalg.solve_triangular(whitening.mT, identity, upper=False)
    return Mixture(family, weights, means, roots @ roots.mT, whitening, roots)


def whitening_from_precisions(family: CovarianceFamily, precisions: Tensor) -> Tensor:
    """Return the upper triangular (or positive) W for which W W' equals the precisions, in the same shape."""
    if family.name in ("diag", "spherical"):
        return precisions.sqrt()
    # Reversing rows and columns turns the lower Cholesky factor of the reversed matrix into the upper factor.
    return torch.linalg.cholesky(precisions.flip(-1, -2)).flip(-1, -2)
