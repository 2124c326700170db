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
        features = x.shape[0]
        phi[0] = 1
        phi[1 : 1 + features] = x
        start = 1 + features
        for i in range(features):
            torch.mul(x[i], x[i:], out=phi[start : start + features - i])
            start += features - i

    def natural(self, mixture: Mixture) -> Tensor:
        precision = mixture.whitening @ mixture.whitening.mT
        linear = (precision @ mixture.means.unsqueeze(2)).squeeze(2)
        constant = mixture.log_scale() - 0.5 * (linear * mixture.means).sum(1)
        precision.diagonal(dim1=1, dim2=2).mul_(0.5)
        upper = _upper(mixture.features, precision.device)
        return torch.cat([constant.unsqueeze(1), linear, -precision[:, upper[0], upper[1]]], 1)

    def moments(self, totals: Tensor, features: int, outer: Tensor | None) -> tuple[Tensor, Tensor]:
        upper = _upper(features, totals.device)
        second = totals.new_zeros(totals.shape[0], features, features)
        second[:, upper[0], upper[1]] = totals[:, 1 + features :]
        return totals[:, 1 : 1 + features], second + second.triu(1).mT

    def log_det(self, whitening: Tensor, features: int) -> Tensor:
        return whitening.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def whiten(self, d: Tensor, whitening: Tensor) -> Tensor:
        return torch.bmm(whitening.mT, d)

    def second(self, y: Tensor, weighted: Tensor) -> Tensor:
        return torch.bmm(weighted, y.mT)

    def colour(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        return (roots @ first.unsqueeze(2)).squeeze(2), roots @ second @ roots.mT

    def moved(self, second: Tensor, first: Tensor, counts: Tensor, by: Tensor) -> Tensor:
        cross = first.unsqueeze(2) * by.unsqueeze(1)
        return second - cross - cross.mT + counts[:, None, None] * by.unsqueeze(2) * by.unsqueeze(1)

    def divided(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        covariances = scatter / counts[:, None, None]
        return 0.5 * (covariances + covariances.mT)

    def diagonal(self, values: Tensor, covariances: Tensor) -> Tensor:
        return torch.diag(values)

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
        return first @ roots.mT, roots @ second @ roots.mT

    def moved(self, second: Tensor, first: Tensor, counts: Tensor, by: Tensor) -> Tensor:
        cross = first.mT @ by
        return second - cross - cross.mT + (counts.unsqueeze(1) * by).mT @ by

    def divided(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        covariance = scatter / counts.sum()
        return 0.5 * (covariance + covariance.mT)

    def dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        return covariances.expand(components, features, features)

    def restrict(self, second: Tensor) -> Tensor:
        return second.sum(0)

    @property
    def outer(self) -> bool:
        return True


def _upper(features: int, device: torch.device) -> Tensor:
    return torch.triu_indices(features, features, device=device)
