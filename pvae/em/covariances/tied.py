"""Covariances of the tied family: one matrix for all components."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import Mixture
from pvae.em.covariances.full import Full
from pvae.products.libraries import BatchedProduct

__all__ = ["Tied"]


class Tied(Full):
    """All components share one covariance matrix."""

    name = "tied"

    def covariance_shape(self, components: int, features: int) -> tuple[int, ...]:
        """Return (features, features)."""
        return features, features

    def count_parameters(self, components: int, features: int) -> int:
        """Return the number of entries on and above the diagonal of the shared matrix."""
        return features * (features + 1) // 2

    def phi_size(self, features: int) -> int:
        """Return the length of phi(x) = [1, x]."""
        return 1 + features

    def write_phi(self, x: Tensor, phi: Tensor) -> None:
        """Write [1, x] into `phi`, (1 + features, batch)."""
        phi[0] = 1
        phi[1:] = x

    def phi_products(self, x: Tensor, phi: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return an empty list, because phi(x) holds no products."""
        return []

    def natural_parameters(self, mixture: Mixture) -> Tensor:
        """Return the coefficients of 1 and x in log w_k p(x given k), (components, 1 + features)."""
        # The quadratic term in x is the same for all components. The responsibilities do not depend on it, and the
        # log-likelihood gets it from the sum of x x' over the data.
        linear = mixture.means @ (mixture.whitening @ mixture.whitening.mT)
        constant = mixture.log_scale() - 0.5 * (linear * mixture.means).sum(1)
        return torch.cat([constant.unsqueeze(1), linear], 1)

    def moments_from_phi(self, sums: Tensor, features: int, outer_sum: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sums of r x, (components, features), and `outer_sum`, (features, features).

        Raises:
            RuntimeError: if `outer_sum` is None.
        """
        if outer_sum is None:
            raise RuntimeError("Tied covariances need the sum of x x' over the data; got None. Pass `outer_sum`.")
        return sums[:, 1:], outer_sum

    def whiten(self, deviations: Tensor, whitening: Tensor, multiply: BatchedProduct, out: Tensor) -> Tensor:
        """Return W' d with the shared matrix W, (components, features, batch)."""
        return multiply(whitening.mT.expand(len(deviations), -1, -1), deviations, out=out)

    def weighted_second_moments(self, y: Tensor, weighted: Tensor, multiply: BatchedProduct = torch.bmm) -> Tensor:
        """Return the sum of r y y' over the batch and the components, (features, features)."""
        return multiply(weighted, y.mT).sum(0)

    def unwhiten(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        """Return L f for each component, (components, features), and L S L', (features, features), for the root L.

        The second moments are made exactly symmetric.
        """
        unwhitened = roots @ second @ roots.mT
        return first @ roots.mT, 0.5 * (unwhitened + unwhitened.mT)

    def shift_second_moments(self, second: Tensor, first: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        """Return the sum over components of r (x - origin - offset)(x - origin - offset)', (features, features)."""
        cross = first.mT @ offset
        return second - cross - cross.mT + (counts.unsqueeze(1) * offset).mT @ offset

    def centre_second_moments(self, second: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        """Return second moments minus the sum over components of counts times offset offset', (features, features)."""
        scaled_offset = offset * counts.sqrt().unsqueeze(1)
        return second - scaled_offset.mT @ scaled_offset

    def covariances_from_scatter(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        """Return the shared covariance matrix, (features, features)."""
        return scatter / counts.sum()

    def to_dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        """Return a view that repeats the shared matrix, (components, features, features)."""
        return covariances.expand(components, features, features)

    def from_dense(self, second: Tensor) -> Tensor:
        """Return the sum of the matrices over components, (features, features)."""
        return second.sum(0)

    @property
    def needs_outer_sum(self) -> bool:
        """Return True, because phi(x) holds no second moments."""
        return True
