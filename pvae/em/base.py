"""What all of EM speaks of: a mixture's parameters, its sufficient statistics, and a family of covariances."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["LOG_2PI", "Family", "Mixture", "Statistics", "cholesky", "whitening_of", "with_whitening"]

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Mixture:
    """Parameters of a Gaussian mixture, float64.

    Attributes:
        family: what kind of covariances the components have.
        weights: (components,), summing to 1.
        means: (components, features).
        covariances: full (components, features, features), tied (features, features), diag
            (components, features), spherical (components,).
        whitening: W with y = (x - mean) W of unit covariance, in the shape of the covariances: upper triangular
            or positive. It is scikit-learn's ``precisions_cholesky_``.
        roots: the inverse of W transposed, the lower Cholesky factor of the covariances (or standard deviations).
    """

    family: Family
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
        """Return log weight plus the logarithm of the Gaussian's normaliser, (components,)."""
        # A component that lost all data has weight 0; the floor keeps its logit finite and its share at 0.
        weights = self.weights.clamp_min(1e-300).log()
        return weights - 0.5 * self.features * LOG_2PI + self.family.log_det(self.whitening, self.features)

    def take(self, order: Tensor) -> Mixture:
        """Return the mixture with its components in another order."""
        shared = self.family.name == "tied"
        picked = {name: getattr(self, name) for name in ("covariances", "whitening", "roots")}
        picked = picked if shared else {name: each[order] for name, each in picked.items()}
        return replace(self, weights=self.weights[order], means=self.means[order], **picked)


@dataclass(frozen=True)
class Statistics:
    """Weighted moments of the data under responsibilities, float64; those of two parts of the data add up.

    Attributes:
        counts: summed responsibilities, (components,).
        first: summed r (x - about), (components, features).
        second: summed r (x - about)(x - about)', in the shape of the covariances; spherical sums the features.
        about: the points that the moments are about, (components, features).
        log_likelihood: summed log p(x), (), nats.
        weight: summed sample weights, ().
    """

    counts: Tensor
    first: Tensor
    second: Tensor
    about: Tensor
    log_likelihood: Tensor
    weight: Tensor

    def __add__(self, other: Statistics) -> Statistics:
        """Return the moments of both parts; they must be about the same points."""
        names = ("counts", "first", "second", "log_likelihood", "weight")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})

    def times(self, factor: float) -> Statistics:
        """Return the moments of data that weigh `factor` as much."""
        names = ("counts", "first", "second", "log_likelihood", "weight")
        return replace(self, **{name: getattr(self, name) * factor for name in names})


class Family(ABC):
    """One kind of covariances: what EM does differently for it. Instances hold nothing.

    A pass over the data has two routes. `write`, `natural` and `moments` are exponential-family features: two
    matrix products for all components, fast, but squares cancel. `whiten`, `second` and `colour` work in the
    whitened coordinates of each component, and stay exact where components are narrow.
    """

    name: ClassVar[str]

    @abstractmethod
    def shape(self, components: int, features: int) -> tuple[int, ...]:
        """Return the shape of the covariances."""

    @abstractmethod
    def size(self, components: int, features: int) -> int:
        """Return how many free numbers the covariances hold."""

    @abstractmethod
    def width(self, features: int) -> int:
        """Return the number of exponential-family features of a datum."""

    @abstractmethod
    def write(self, x: Tensor, phi: Tensor) -> None:
        """Write the features of `x`, (features, batch), into `phi`, (width, batch)."""

    def products(self, x: Tensor, phi: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return factors and places of the products that `write` takes, as views of `x` and `phi`; by default none.

        Making views takes longer than a small product; where the same memory is written many times, they are made once.
        """
        return []

    @abstractmethod
    def natural(self, mixture: Mixture) -> Tensor:
        """Return the matrix that turns features into log w_k p(x given k), (components, width)."""

    @abstractmethod
    def moments(self, totals: Tensor, features: int, outer: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return first and second moments about 0 from summed features, (components, width)."""

    @abstractmethod
    def log_det(self, whitening: Tensor, features: int) -> Tensor:
        """Return log |W|, which is minus half of log |covariance|, (components,) or ()."""

    @abstractmethod
    def whiten(self, d: Tensor, whitening: Tensor) -> Tensor:
        """Return y = W' d for differences of shape (components, features, batch)."""

    @abstractmethod
    def second(self, y: Tensor, weighted: Tensor) -> Tensor:
        """Return the second moments of whitened data, (components, features, batch), given y and r y."""

    @abstractmethod
    def colour(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        """Return whitened moments in the coordinates of the data."""

    @abstractmethod
    def moved(self, second: Tensor, first: Tensor, counts: Tensor, by: Tensor) -> Tensor:
        """Return second moments about points that lie `by`, (components, features), further on."""

    @abstractmethod
    def centred(self, second: Tensor, counts: Tensor, step: Tensor) -> Tensor:
        """Return second moments about the means, which lie `step` from where they were taken."""

    @abstractmethod
    def divided(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        """Return covariances: second moments about the means over the counts, (components,)."""

    @abstractmethod
    def add_diagonal(self, values: Tensor, covariances: Tensor) -> Tensor:
        """Return covariances with `values`, (features,), added to the variances; may change them in place."""

    @abstractmethod
    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return roots, whitening, and which components have no Cholesky factor, (components,) or () bool."""

    @abstractmethod
    def precision_diagonal(self, whitening: Tensor) -> Tensor:
        """Return the diagonal of the precisions, broadcastable to (components, features)."""

    @abstractmethod
    def scaled(self, covariances: Tensor, scale: Tensor) -> Tensor:
        """Return covariances of data whose features were multiplied by `scale`, (features,)."""

    @abstractmethod
    def scaled_whitening(self, whitening: Tensor, scale: Tensor) -> Tensor:
        """Return the whitening of data whose features were multiplied by `scale`, (features,)."""

    @abstractmethod
    def dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        """Return covariances as (components, features, features)."""

    @abstractmethod
    def restrict(self, second: Tensor) -> Tensor:
        """Return full second moments, (components, features, features), as this family keeps them."""

    @property
    def outer(self) -> bool:
        """Whether the fast route needs the data's own summed x x'."""
        return False

    def mixture(self, weights: Tensor, means: Tensor, covariances: Tensor) -> Mixture:
        """Return the mixture of these parameters; the covariances must be positive definite."""
        roots, whitening, _ = self.factor(covariances)
        return Mixture(self, weights, means, covariances, whitening, roots)


def cholesky(covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return lower factors, whitening and which failed, for matrices (..., features, features)."""
    roots, info = torch.linalg.cholesky_ex(covariances)
    failed = (info != 0) | ~torch.isfinite(roots).all(-1).all(-1)
    identity = torch.eye(covariances.shape[-1], dtype=covariances.dtype, device=covariances.device)
    whitening = torch.linalg.solve_triangular(roots, identity.expand_as(roots), upper=False).mT
    return roots, whitening.contiguous(), failed


def with_whitening(family: Family, weights: Tensor, means: Tensor, whitening: Tensor) -> Mixture:
    """Return the mixture whose precisions are W W'."""
    if family.name in ("diag", "spherical"):
        roots = whitening.reciprocal()
        return Mixture(family, weights, means, roots.square(), whitening, roots)
    identity = torch.eye(means.shape[1], dtype=whitening.dtype, device=whitening.device).expand_as(whitening)
    roots = torch.linalg.solve_triangular(whitening.mT, identity, upper=False)
    return Mixture(family, weights, means, roots @ roots.mT, whitening, roots)


def whitening_of(family: Family, precisions: Tensor) -> Tensor:
    """Return the upper triangular (or positive) W with W W' the precisions."""
    if family.name in ("diag", "spherical"):
        return precisions.sqrt()
    # The Cholesky factor of the matrix turned around is the upper factor, turned around.
    return torch.linalg.cholesky(precisions.flip(-1, -2)).flip(-1, -2)
