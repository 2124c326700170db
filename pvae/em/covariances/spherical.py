"""Covariances of the spherical family: one variance for all features of a component."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import Mixture
from pvae.em.covariances.diagonal import Diagonal

__all__ = ["Spherical"]


class Spherical(Diagonal):
    """Each component has one variance for all features. Standardised coordinates use one scale for all features."""

    name = "spherical"

    def covariance_shape(self, components: int, features: int) -> tuple[int, ...]:
        return (components,)

    def count_parameters(self, components: int, features: int) -> int:
        return components

    def phi_size(self, features: int) -> int:
        return 2 + features

    def write_phi(self, x: Tensor, phi: Tensor) -> None:
        phi[0] = 1
        phi[1:-1] = x
        torch.sum(x * x, 0, out=phi[-1])

    def natural_parameters(self, mixture: Mixture) -> Tensor:
        precision = mixture.whitening.square().unsqueeze(1)
        linear = mixture.means * precision
        constant = mixture.log_scale() - 0.5 * (linear * mixture.means).sum(1)
        return torch.cat([constant.unsqueeze(1), linear, -0.5 * precision], 1)

    def moments_from_phi(self, sums: Tensor, features: int, outer_sum: Tensor | None) -> tuple[Tensor, Tensor]:
        return sums[:, 1:-1], sums[:, -1]

    def whitening_log_det(self, whitening: Tensor, features: int) -> Tensor:
        return features * whitening.log()

    def whiten(self, deviations: Tensor, whitening: Tensor) -> Tensor:
        return deviations * whitening[:, None, None]

    def weighted_second_moments(self, y: Tensor, weighted: Tensor) -> Tensor:
        return (y * weighted).sum((1, 2))

    def unwhiten(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        return first * roots.unsqueeze(1), second * roots.square()

    def shift_second_moments(self, second: Tensor, first: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        return second - 2 * (first * offset).sum(1) + counts * offset.square().sum(1)

    def centre_second_moments(self, second: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        return second - counts * offset.square().sum(1)

    def covariances_from_scatter(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        return scatter / (counts * features)

    def add_diagonal(self, values: Tensor, covariances: Tensor) -> Tensor:
        return covariances + values.mean()

    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        roots = covariances.sqrt()
        return roots, roots.reciprocal(), ~((roots > 0) & torch.isfinite(roots))

    def precision_diagonal(self, whitening: Tensor) -> Tensor:
        return whitening.square().unsqueeze(1)

    def scale_covariances(self, covariances: Tensor, scale: Tensor) -> Tensor:
        return covariances * scale[0].square()

    def scale_whitening(self, whitening: Tensor, scale: Tensor) -> Tensor:
        return whitening / scale[0]

    def to_dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        identity = torch.eye(features, dtype=covariances.dtype, device=covariances.device)
        return covariances[:, None, None] * identity

    def from_dense(self, second: Tensor) -> Tensor:
        return second.diagonal(dim1=1, dim2=2).sum(1)
