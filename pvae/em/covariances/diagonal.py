"""Covariances of the diagonal family: one variance for each feature of a component."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import CovarianceFamily, Mixture

__all__ = ["Diagonal"]


class Diagonal(CovarianceFamily):
    """Each component has a variance for each feature."""

    name = "diag"

    def covariance_shape(self, components: int, features: int) -> tuple[int, ...]:
        return components, features

    def count_parameters(self, components: int, features: int) -> int:
        return components * features

    def phi_size(self, features: int) -> int:
        return 1 + 2 * features

    def write_phi(self, x: Tensor, phi: Tensor) -> None:
        features = x.shape[0]
        phi[0] = 1
        phi[1 : 1 + features] = x
        torch.mul(x, x, out=phi[1 + features :])

    def natural_parameters(self, mixture: Mixture) -> Tensor:
        precision = mixture.whitening.square()
        linear = mixture.means * precision
        constant = mixture.log_scale() - 0.5 * (linear * mixture.means).sum(1)
        return torch.cat([constant.unsqueeze(1), linear, -0.5 * precision], 1)

    def moments_from_phi(self, sums: Tensor, features: int, outer_sum: Tensor | None) -> tuple[Tensor, Tensor]:
        return sums[:, 1 : 1 + features], sums[:, 1 + features :]

    def whitening_log_det(self, whitening: Tensor, features: int) -> Tensor:
        return whitening.log().sum(1)

    def whiten(self, deviations: Tensor, whitening: Tensor) -> Tensor:
        return deviations * whitening.unsqueeze(2)

    def weighted_second_moments(self, y: Tensor, weighted: Tensor) -> Tensor:
        return (y * weighted).sum(2)

    def unwhiten(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        return first * roots, second * roots.square()

    def shift_second_moments(self, second: Tensor, first: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        return second - 2 * first * offset + counts.unsqueeze(1) * offset.square()

    def centre_second_moments(self, second: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        return second - counts.unsqueeze(1) * offset.square()

    def covariances_from_scatter(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        return scatter / counts.unsqueeze(1)

    def add_diagonal(self, values: Tensor, covariances: Tensor) -> Tensor:
        return covariances + values

    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        roots = covariances.sqrt()
        failed = ~((roots > 0) & torch.isfinite(roots))
        return roots, roots.reciprocal(), failed.any(1)

    def precision_diagonal(self, whitening: Tensor) -> Tensor:
        return whitening.square()

    def scale_covariances(self, covariances: Tensor, scale: Tensor) -> Tensor:
        return covariances * scale.square()

    def scale_whitening(self, whitening: Tensor, scale: Tensor) -> Tensor:
        return whitening / scale

    def to_dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        return torch.diag_embed(covariances)

    def from_dense(self, second: Tensor) -> Tensor:
        return second.diagonal(dim1=1, dim2=2)
