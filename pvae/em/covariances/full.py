"""Covariances of the full family: one matrix for each component."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import CovarianceFamily, Mixture, factor_matrices

__all__ = ["Full"]


class Full(CovarianceFamily):
    """Each component has its own covariance matrix."""

    name = "full"

    def covariance_shape(self, components: int, features: int) -> tuple[int, ...]:
        return components, features, features

    def count_parameters(self, components: int, features: int) -> int:
        return components * features * (features + 1) // 2

    def phi_size(self, features: int) -> int:
        return 1 + features + features * (features + 1) // 2

    def write_phi(self, x: Tensor, phi: Tensor) -> None:
        phi[0] = 1
        phi[1 : 1 + len(x)] = x
        for left, right, destination in self.phi_products(x, phi):
            torch.mul(left, right, out=destination)

    def phi_products(self, x: Tensor, phi: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        features = len(x)
        starts = [1 + features + i * features - i * (i - 1) // 2 for i in range(features + 1)]
        return [(x[i], x[i:], phi[starts[i] : starts[i + 1]]) for i in range(features)]

    def natural_parameters(self, mixture: Mixture) -> Tensor:
        precision = mixture.whitening @ mixture.whitening.mT
        linear = (precision @ mixture.means.unsqueeze(2)).squeeze(2)
        constant = mixture.log_scale() - 0.5 * (linear * mixture.means).sum(1)
        precision.diagonal(dim1=1, dim2=2).mul_(0.5)
        rows, columns = _upper_indices(mixture.features, precision.device)
        products = precision.flatten(1).index_select(1, rows * mixture.features + columns)
        return torch.cat([constant.unsqueeze(1), linear, products.neg_()], 1)

    def moments_from_phi(self, sums: Tensor, features: int, outer_sum: Tensor | None) -> tuple[Tensor, Tensor]:
        rows, columns = _upper_indices(features, sums.device)
        # position[i, j] and position[j, i] are the place of x_i x_j in phi.
        position = torch.empty(features, features, dtype=torch.int64, device=sums.device)
        products = torch.arange(1 + features, sums.shape[1], device=sums.device)
        position[rows, columns] = products
        position[columns, rows] = products
        second = sums.index_select(1, position.flatten()).unflatten(1, (features, features))
        return sums[:, 1 : 1 + features], second

    def whitening_log_det(self, whitening: Tensor, features: int) -> Tensor:
        return whitening.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def whiten(self, deviations: Tensor, whitening: Tensor) -> Tensor:
        return torch.bmm(whitening.mT, deviations)

    def weighted_second_moments(self, y: Tensor, weighted: Tensor) -> Tensor:
        return torch.bmm(weighted, y.mT)

    def unwhiten(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        unwhitened = roots @ second @ roots.mT
        return (roots @ first.unsqueeze(2)).squeeze(2), 0.5 * (unwhitened + unwhitened.mT)

    def shift_second_moments(self, second: Tensor, first: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        cross = first.unsqueeze(2) * offset.unsqueeze(1)
        return second - cross - cross.mT + counts[:, None, None] * offset.unsqueeze(2) * offset.unsqueeze(1)

    def centre_second_moments(self, second: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        # The same factor on both sides keeps the difference as symmetric as the moments.
        scaled_offset = offset * counts.sqrt().unsqueeze(1)
        return torch.baddbmm(second, scaled_offset.unsqueeze(2), scaled_offset.unsqueeze(1), alpha=-1)

    def covariances_from_scatter(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        return scatter / counts[:, None, None]

    def add_diagonal(self, values: Tensor, covariances: Tensor) -> Tensor:
        covariances.diagonal(dim1=-2, dim2=-1).add_(values)
        return covariances

    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return factor_matrices(covariances)

    def precision_diagonal(self, whitening: Tensor) -> Tensor:
        return whitening.square().sum(-1)

    def scale_covariances(self, covariances: Tensor, scale: Tensor) -> Tensor:
        return covariances * scale.unsqueeze(-1) * scale

    def scale_whitening(self, whitening: Tensor, scale: Tensor) -> Tensor:
        return whitening / scale.unsqueeze(-1)

    def to_dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        return covariances

    def from_dense(self, second: Tensor) -> Tensor:
        return second


def _upper_indices(features: int, device: torch.device) -> Tensor:
    """Return rows and columns of the upper triangle, (2, features (features + 1) / 2)."""
    return torch.triu_indices(features, features, device=device)
