"""Covariances of the full family: one matrix for each component."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from pvae.em.base import CovarianceFamily, Mixture, factor_matrices
from pvae.products.libraries import BatchedProduct

__all__ = ["Full"]


class Full(CovarianceFamily):
    """Each component has its own covariance matrix."""

    name = "full"

    def covariance_shape(self, components: int, features: int) -> tuple[int, ...]:
        """Return (components, features, features)."""
        return components, features, features

    def count_parameters(self, components: int, features: int) -> int:
        """Return the number of entries on and above the diagonal of all matrices."""
        return components * features * (features + 1) // 2

    def phi_size(self, features: int) -> int:
        """Return the length of phi(x), which holds 1, x, and the products x_i x_j for i <= j."""
        return 1 + features + features * (features + 1) // 2

    def write_phi(self, x: Tensor, phi: Tensor) -> None:
        """Write 1, x and the products x_i x_j for i <= j into `phi`, (phi_size, batch)."""
        phi[0] = 1
        phi[1 : 1 + len(x)] = x
        for left, right, destination in self.phi_products(x, phi):
            torch.mul(left, right, out=destination)

    def phi_products(self, x: Tensor, phi: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return, for each feature i, x_i, (batch,), the features from i on, and the rows of `phi` for their products.

        The last two have the shape (features - i, batch).
        """
        features = len(x)
        starts = [1 + features + i * features - i * (i - 1) // 2 for i in range(features + 1)]
        return [(x[i], x[i:], phi[starts[i] : starts[i + 1]]) for i in range(features)]

    def natural_parameters(self, mixture: Mixture) -> Tensor:
        """Return the coefficients of 1, x and x_i x_j for i <= j in log w_k p(x given k), (components, phi_size)."""
        precision = mixture.whitening @ mixture.whitening.mT
        linear = (precision @ mixture.means.unsqueeze(2)).squeeze(2)
        constant = mixture.log_scale() - 0.5 * (linear * mixture.means).sum(1)
        precision.diagonal(dim1=1, dim2=2).mul_(0.5)
        upper, _ = _positions(mixture.features, precision.device)
        products = precision.flatten(1).index_select(1, upper)
        return torch.cat([constant.unsqueeze(1), linear, products.neg_()], 1)

    def moments_from_phi(self, sums: Tensor, features: int, outer_sum: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sums of r x, (components, features), and of r x x', (components, features, features)."""
        _, position = _positions(features, sums.device)
        second = sums[:, 1 + features :].index_select(1, position).unflatten(1, (features, features))
        return sums[:, 1 : 1 + features], second

    def whitening_log_det(self, whitening: Tensor, features: int) -> Tensor:
        """Return the sum of the logs of the diagonal of W, (components,), or () for one matrix."""
        return whitening.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def whiten(self, deviations: Tensor, whitening: Tensor, multiply: BatchedProduct, out: Tensor) -> Tensor:
        """Return W' d with the matrix W of each component, (components, features, batch)."""
        return multiply(whitening.mT, deviations, out=out)

    def weighted_second_moments(self, y: Tensor, weighted: Tensor, multiply: BatchedProduct = torch.bmm) -> Tensor:
        """Return the sum of r y y' over the batch, (components, features, features)."""
        return multiply(weighted, y.mT)

    def unwhiten(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        """Return L f, (components, features), and L S L', (components, features, features), for roots L.

        The second moments are made exactly symmetric.
        """
        unwhitened = roots @ second @ roots.mT
        return (roots @ first.unsqueeze(2)).squeeze(2), 0.5 * (unwhitened + unwhitened.mT)

    def shift_second_moments(self, second: Tensor, first: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        """Return the sums of r (x - origin - offset)(x - origin - offset)', (components, features, features)."""
        cross = first.unsqueeze(2) * offset.unsqueeze(1)
        return second - cross - cross.mT + counts[:, None, None] * offset.unsqueeze(2) * offset.unsqueeze(1)

    def centre_second_moments(self, second: Tensor, counts: Tensor, offset: Tensor) -> Tensor:
        """Return second moments minus the counts times offset offset', (components, features, features)."""
        # The same factor on both sides keeps the difference as symmetric as the moments.
        scaled_offset = offset * counts.sqrt().unsqueeze(1)
        return torch.baddbmm(second, scaled_offset.unsqueeze(2), scaled_offset.unsqueeze(1), alpha=-1)

    def covariances_from_scatter(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        """Return the covariance matrix of each component, (components, features, features)."""
        return scatter / counts[:, None, None]

    def add_diagonal(self, values: Tensor, covariances: Tensor) -> Tensor:
        """Add `values` to the diagonals of the covariances in place, and return them in their shape."""
        covariances.diagonal(dim1=-2, dim2=-1).add_(values)
        return covariances

    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return lower Cholesky factors and whitening in the shape of the covariances, and a mask of failures.

        The mask has the shape of the covariances without the last two dimensions.
        """
        return factor_matrices(covariances)

    def precision_diagonal(self, whitening: Tensor) -> Tensor:
        """Return the row sums of the squared whitening, (components, features), or (features,) for one matrix."""
        return whitening.square().sum(-1)

    def scale_covariances(self, covariances: Tensor, scale: Tensor) -> Tensor:
        """Return the covariances with rows and columns multiplied by `scale`, in the same shape."""
        return covariances * scale.unsqueeze(-1) * scale

    def scale_whitening(self, whitening: Tensor, scale: Tensor) -> Tensor:
        """Return the whitening with rows divided by `scale`, in the same shape."""
        return whitening / scale.unsqueeze(-1)

    def to_dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        """Return the covariances unchanged, (components, features, features)."""
        return covariances

    def from_dense(self, second: Tensor) -> Tensor:
        """Return the second moments unchanged, (components, features, features)."""
        return second


def _positions(features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the places of the entries i <= j of a matrix in the flat matrix, and of all entries among these.

    Returns:
        The first of shape (features (features + 1) / 2,). The second of shape (features^2,), with equal places for
        (i, j) and (j, i).
    """
    upper, position = _position_arrays(features)
    return torch.as_tensor(upper, device=device), torch.as_tensor(position, device=device)


@lru_cache(maxsize=8)
def _position_arrays(features: int) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.triu_indices(features)
    position = np.empty((features, features), np.int64)
    position[rows, columns] = position[columns, rows] = np.arange(len(rows))
    return rows * features + columns, position.ravel()
