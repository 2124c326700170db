"""Covariances of the spherical family: one variance for all features of a component."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import Mixture
from pvae.em.covariances.diagonal import Diagonal
from pvae.products.libraries import BatchedProduct

__all__ = ["Spherical"]


class Spherical(Diagonal):
    """Each component has one variance for all features. Standardised coordinates use one scale for all features."""

    name = "spherical"

    def covariance_shape(self, components: int, features: int) -> tuple[int, ...]:
        """Return (components,)."""
        return (components,)

    def count_parameters(self, components: int, features: int) -> int:
        """Return the number of variances: one for each component."""
        return components

    def phi_size(self, features: int) -> int:
        """Return the length of phi(x) = [1, x, x'x]."""
        return 2 + features

    def write_phi(self, x: Tensor, phi: Tensor) -> None:
        """Write [1, x, x'x] into `phi`, (2 + features, batch)."""
        phi[0] = 1
        phi[1:-1] = x
        torch.sum(x * x, 0, out=phi[-1])

    def natural_parameters(self, mixture: Mixture) -> Tensor:
        """Return the coefficients of 1, x and x'x in log w_k p(x given k), (components, 2 + features)."""
        precision = mixture.whitening.square().unsqueeze(1)
        linear = mixture.means * precision
        constant = mixture.log_scale() - 0.5 * (linear * mixture.means).sum(1)
        return torch.cat([constant.unsqueeze(1), linear, -0.5 * precision], 1)

    def moments_from_phi(self, sums: Tensor, features: int, outer_sum: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sums of r x, (components, features), and of r x'x, (components,)."""
        return sums[:, 1:-1], sums[:, -1]

    def whitening_log_det(self, whitening: Tensor, features: int) -> Tensor:
        """Return the number of features times log W, (components,)."""
        return features * whitening.log()

    def whiten(self, deviations: Tensor, whitening: Tensor, multiply: BatchedProduct, out: Tensor) -> Tensor:
        """Return deviations divided by the standard deviation of the component, (components, features, batch)."""
        return torch.mul(deviations, whitening[:, None, None], out=out)

    def weighted_second_moments(self, y: Tensor, weighted: Tensor, multiply: BatchedProduct = torch.bmm) -> Tensor:
        """Return the sum of r y'y over the batch, (components,)."""
        return (y * weighted).sum((1, 2))

    def unwhiten(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        """Return moments times standard deviations, (components, features), and times variances, (components,)."""
        return first * roots.unsqueeze(1), second * roots.square()

    def shift_second_moments(self, second: Tensor, first: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        """Return the sums of r |x - origin - offset|^2, (components,)."""
        return second - 2 * (first * offset).sum(1) + counts * offset.square().sum(1)

    def centre_second_moments(self, second: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        """Return second moments minus the counts times |offset|^2, (components,)."""
        return second - counts * offset.square().sum(1)

    def covariances_from_scatter(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        """Return the mean variance over the features of each component, (components,)."""
        return scatter / (counts * features)

    def add_diagonal(self, values: Tensor, covariances: Tensor) -> Tensor:
        """Return the variances plus the mean of `values`, as a new tensor, (components,)."""
        return covariances + values.mean()

    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return standard deviations, their reciprocals and a mask, each (components,).

        The mask is True where a standard deviation is not positive and finite.
        """
        roots = covariances.sqrt()
        return roots, roots.reciprocal(), ~((roots > 0) & torch.isfinite(roots))

    def precision_diagonal(self, whitening: Tensor) -> Tensor:
        """Return the reciprocals of the variances, (components, 1)."""
        return whitening.square().unsqueeze(1)

    def scale_covariances(self, covariances: Tensor, scale: Tensor) -> Tensor:
        """Return the variances multiplied by scale^2, (components,). All entries of `scale` must be equal."""
        return covariances * scale[0].square()

    def scale_whitening(self, whitening: Tensor, scale: Tensor) -> Tensor:
        """Return the whitening divided by the scale, (components,). All entries of `scale` must be equal."""
        return whitening / scale[0]

    def to_dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        """Return the variance times the identity for each component, (components, features, features)."""
        identity = torch.eye(features, dtype=covariances.dtype, device=covariances.device)
        return covariances[:, None, None] * identity

    def from_dense(self, second: Tensor) -> Tensor:
        """Return the trace of each matrix, (components,)."""
        return second.diagonal(dim1=1, dim2=2).sum(1)
