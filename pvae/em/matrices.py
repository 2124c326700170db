"""Covariance matrices: one for each component (full), or one for all (tied)."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import Family, Mixture, cholesky

__all__ = ["Full", "Tied"]


class Full(Family):
    """Each component has its own covariance matrix."""

    name = "full"

    def shape(self, components: int, features: int) -> tuple[int, ...]:
        return components, features, features

    def size(self, components: int, features: int) -> int:
        return components * features * (features + 1) // 2

    def width(self, features: int) -> int:
        return 1 + features + features * (features + 1) // 2

    def write(self, x: Tensor, phi: Tensor) -> None:
        phi[0] = 1
        phi[1 : 1 + len(x)] = x
        for left, right, place in self.products(x, phi):
            torch.mul(left, right, out=place)

    def products(self, x: Tensor, phi: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        features = len(x)
        starts = [1 + features + i * features - i * (i - 1) // 2 for i in range(features + 1)]
        return [(x[i], x[i:], phi[starts[i] : starts[i + 1]]) for i in range(features)]

    def natural(self, mixture: Mixture) -> Tensor:
        precision = mixture.whitening @ mixture.whitening.mT
        linear = (precision @ mixture.means.unsqueeze(2)).squeeze(2)
        constant = mixture.log_scale() - 0.5 * (linear * mixture.means).sum(1)
        precision.diagonal(dim1=1, dim2=2).mul_(0.5)
        rows, columns = _upper(mixture.features, precision.device)
        products = precision.flatten(1).index_select(1, rows * mixture.features + columns)
        return torch.cat([constant.unsqueeze(1), linear, products.neg_()], 1)

    def moments(self, totals: Tensor, features: int, outer: Tensor | None) -> tuple[Tensor, Tensor]:
        rows, columns = _upper(features, totals.device)
        # Where the product of each two features stands, either way around.
        place = torch.empty(features, features, dtype=torch.int64, device=totals.device)
        place[rows, columns] = place[columns, rows] = torch.arange(1 + features, totals.shape[1], device=totals.device)
        second = totals.index_select(1, place.flatten()).unflatten(1, (features, features))
        return totals[:, 1 : 1 + features], second

    def log_det(self, whitening: Tensor, features: int) -> Tensor:
        return whitening.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def whiten(self, d: Tensor, whitening: Tensor) -> Tensor:
        return torch.bmm(whitening.mT, d)

    def second(self, y: Tensor, weighted: Tensor) -> Tensor:
        return torch.bmm(weighted, y.mT)

    def colour(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        coloured = roots @ second @ roots.mT
        return (roots @ first.unsqueeze(2)).squeeze(2), 0.5 * (coloured + coloured.mT)

    def moved(self, second: Tensor, first: Tensor, counts: Tensor, by: Tensor) -> Tensor:
        cross = first.unsqueeze(2) * by.unsqueeze(1)
        return second - cross - cross.mT + counts[:, None, None] * by.unsqueeze(2) * by.unsqueeze(1)

    def centred(self, second: Tensor, counts: Tensor, step: Tensor) -> Tensor:
        # One factor on both sides, so that the difference is as symmetric as the moments are.
        moved = step * counts.sqrt().unsqueeze(1)
        return torch.baddbmm(second, moved.unsqueeze(2), moved.unsqueeze(1), alpha=-1)

    def divided(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        return scatter / counts[:, None, None]

    def add_diagonal(self, values: Tensor, covariances: Tensor) -> Tensor:
        covariances.diagonal(dim1=-2, dim2=-1).add_(values)
        return covariances

    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return cholesky(covariances)

    def precision_diagonal(self, whitening: Tensor) -> Tensor:
        return whitening.square().sum(-1)

    def scaled(self, covariances: Tensor, scale: Tensor) -> Tensor:
        return covariances * scale.unsqueeze(-1) * scale

    def scaled_whitening(self, whitening: Tensor, scale: Tensor) -> Tensor:
        return whitening / scale.unsqueeze(-1)

    def dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        return covariances

    def restrict(self, second: Tensor) -> Tensor:
        return second


class Tied(Full):
    """All components share one covariance matrix."""

    name = "tied"

    def shape(self, components: int, features: int) -> tuple[int, ...]:
        return features, features

    def size(self, components: int, features: int) -> int:
        return features * (features + 1) // 2

    def width(self, features: int) -> int:
        return 1 + features

    def write(self, x: Tensor, phi: Tensor) -> None:
        phi[0] = 1
        phi[1:] = x

    def products(self, x: Tensor, phi: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        return []

    def natural(self, mixture: Mixture) -> Tensor:
        # The square of x is the same for all components: it drops out of the responsibilities, and enters the
        # log-likelihood through the data's own summed x x'.
        linear = mixture.means @ (mixture.whitening @ mixture.whitening.mT)
        constant = mixture.log_scale() - 0.5 * (linear * mixture.means).sum(1)
        return torch.cat([constant.unsqueeze(1), linear], 1)

    def moments(self, totals: Tensor, features: int, outer: Tensor | None) -> tuple[Tensor, Tensor]:
        if outer is None:
            raise RuntimeError("tied covariances need the summed x x' of the data")
        return totals[:, 1:], outer

    def whiten(self, d: Tensor, whitening: Tensor) -> Tensor:
        return whitening.mT @ d

    def second(self, y: Tensor, weighted: Tensor) -> Tensor:
        return torch.bmm(weighted, y.mT).sum(0)

    def colour(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        coloured = roots @ second @ roots.mT
        return first @ roots.mT, 0.5 * (coloured + coloured.mT)

    def moved(self, second: Tensor, first: Tensor, counts: Tensor, by: Tensor) -> Tensor:
        cross = first.mT @ by
        return second - cross - cross.mT + (counts.unsqueeze(1) * by).mT @ by

    def centred(self, second: Tensor, counts: Tensor, step: Tensor) -> Tensor:
        moved = step * counts.sqrt().unsqueeze(1)
        return second - moved.mT @ moved

    def divided(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        return scatter / counts.sum()

    def dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        return covariances.expand(components, features, features)

    def restrict(self, second: Tensor) -> Tensor:
        return second.sum(0)

    @property
    def outer(self) -> bool:
        return True


def _upper(features: int, device: torch.device) -> Tensor:
    return torch.triu_indices(features, features, device=device)
