"""Covariances of the diagonal family: one variance for each feature of a component."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import CovarianceFamily, Mixture
from pvae.products.libraries import BatchedProduct

__all__ = ["Diagonal"]


class Diagonal(CovarianceFamily):
    """Each component has a variance for each feature."""

    name = "diag"

    def covariance_shape(self, components: int, features: int) -> tuple[int, ...]:
        """Return (components, features)."""
        return components, features

    def count_parameters(self, components: int, features: int) -> int:
        """Return the number of variances: one for each component and feature."""
        return components * features

    def phi_size(self, features: int) -> int:
        """Return the length of phi(x) = [1, x, x^2]."""
        return 1 + 2 * features

    def write_phi(self, x: Tensor, phi: Tensor) -> None:
        """Write [1, x, x^2] into `phi`, (1 + 2 features, batch)."""
        features = x.shape[0]
        phi[0] = 1
        phi[1 : 1 + features] = x
        torch.mul(x, x, out=phi[1 + features :])

    def natural_parameters(self, mixture: Mixture) -> Tensor:
        """Return the coefficients of 1, x and x^2 in log w_k p(x given k), (components, 1 + 2 features)."""
        precision = mixture.whitening.square()
        linear = mixture.means * precision
        constant = mixture.log_scale() - 0.5 * (linear * mixture.means).sum(1)
        return torch.cat([constant.unsqueeze(1), linear, -0.5 * precision], 1)

    def moments_from_phi(self, sums: Tensor, features: int, outer_sum: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sums of r x and of r x^2, both (components, features)."""
        return sums[:, 1 : 1 + features], sums[:, 1 + features :]

    def whitening_log_det(self, whitening: Tensor, features: int) -> Tensor:
        """Return the sum of log W over features, (components,)."""
        return whitening.log().sum(1)

    def whiten(self, deviations: Tensor, whitening: Tensor, multiply: BatchedProduct, out: Tensor) -> Tensor:
        """Return deviations divided by standard deviations, (components, features, batch)."""
        return torch.mul(deviations, whitening.unsqueeze(2), out=out)

    def weighted_second_moments(self, y: Tensor, weighted: Tensor, multiply: BatchedProduct = torch.bmm) -> Tensor:
        """Return the sum of r y^2 over the batch, (components, features)."""
        return (y * weighted).sum(2)

    def unwhiten(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        """Return moments multiplied by standard deviations and by variances, both (components, features)."""
        return first * roots, second * roots.square()

    def shift_second_moments(self, second: Tensor, first: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        """Return the sums of r (x - origin - offset)^2, (components, features)."""
        return second - 2 * first * offset + counts.unsqueeze(1) * offset.square()

    def centre_second_moments(self, second: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        """Return second moments minus the counts times offset^2, (components, features)."""
        return second - counts.unsqueeze(1) * offset.square()

    def covariances_from_scatter(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        """Return the variance of each feature in each component, (components, features)."""
        return scatter / counts.unsqueeze(1)

    def add_diagonal(self, values: Tensor, covariances: Tensor) -> Tensor:
        """Return the variances plus `values`, as a new tensor, (components, features)."""
        return covariances + values

    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return standard deviations and their reciprocals, (components, features), and a mask, (components,).

        The mask is True where a standard deviation is not positive and finite.
        """
        roots = covariances.sqrt()
        failed = ~((roots > 0) & torch.isfinite(roots))
        return roots, roots.reciprocal(), failed.any(1)

    def precision_diagonal(self, whitening: Tensor) -> Tensor:
        """Return the reciprocals of the variances, (components, features)."""
        return whitening.square()

    def scale_covariances(self, covariances: Tensor, scale: Tensor) -> Tensor:
        """Return the variances multiplied by scale^2, (components, features)."""
        return covariances * scale.square()

    def scale_whitening(self, whitening: Tensor, scale: Tensor) -> Tensor:
        """Return the whitening divided by `scale`, (components, features)."""
        return whitening / scale

    def to_dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        """Return a diagonal matrix for each component, (components, features, features)."""
        return torch.diag_embed(covariances)

    def from_dense(self, second: Tensor) -> Tensor:
        """Return the diagonal of each matrix, (components, features)."""
        return second.diagonal(dim1=1, dim2=2)
