"""Covariances without correlations: a variance for each feature (diag), or one for all (spherical)."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import Family, Mixture

__all__ = ["Diagonal", "Spherical"]


class Diagonal(Family):
    """Each component has a variance for each feature."""

    name = "diag"

    def shape(self, components: int, features: int) -> tuple[int, ...]:
        return components, features

    def size(self, components: int, features: int) -> int:
        return components * features

    def width(self, features: int) -> int:
        return 1 + 2 * features

    def write(self, x: Tensor, phi: Tensor) -> None:
        features = x.shape[0]
        phi[0] = 1
        phi[1 : 1 + features] = x
        torch.mul(x, x, out=phi[1 + features :])

    def natural(self, mixture: Mixture) -> Tensor:
        precision = mixture.whitening.square()
        linear = mixture.means * precision
        constant = mixture.log_scale() - 0.5 * (linear * mixture.means).sum(1)
        return torch.cat([constant.unsqueeze(1), linear, -0.5 * precision], 1)

    def moments(self, totals: Tensor, features: int, outer: Tensor | None) -> tuple[Tensor, Tensor]:
        return totals[:, 1 : 1 + features], totals[:, 1 + features :]

    def log_det(self, whitening: Tensor, features: int) -> Tensor:
        return whitening.log().sum(1)

    def whiten(self, d: Tensor, whitening: Tensor) -> Tensor:
        return d * whitening.unsqueeze(2)

    def second(self, y: Tensor, weighted: Tensor) -> Tensor:
        return (y * weighted).sum(2)

    def colour(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        return first * roots, second * roots.square()

    def moved(self, second: Tensor, first: Tensor, counts: Tensor, by: Tensor) -> Tensor:
        return second - 2 * first * by + counts.unsqueeze(1) * by.square()

    def centred(self, second: Tensor, counts: Tensor, step: Tensor) -> Tensor:
        return second - counts.unsqueeze(1) * step.square()

    def divided(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        return scatter / counts.unsqueeze(1)

    def add_diagonal(self, values: Tensor, covariances: Tensor) -> Tensor:
        return covariances + values

    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        roots = covariances.sqrt()
        failed = ~((roots > 0) & torch.isfinite(roots))
        return roots, roots.reciprocal(), failed.any(1)

    def precision_diagonal(self, whitening: Tensor) -> Tensor:
        return whitening.square()

    def scaled(self, covariances: Tensor, scale: Tensor) -> Tensor:
        return covariances * scale.square()

    def scaled_whitening(self, whitening: Tensor, scale: Tensor) -> Tensor:
        return whitening / scale

    def dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        return torch.diag_embed(covariances)

    def restrict(self, second: Tensor) -> Tensor:
        return second.diagonal(dim1=1, dim2=2)


class Spherical(Diagonal):
    """Each component has one variance for all features, which therefore keep one common scale."""

    name = "spherical"

    def shape(self, components: int, features: int) -> tuple[int, ...]:
        return (components,)

    def size(self, components: int, features: int) -> int:
        return components

    def width(self, features: int) -> int:
        return 2 + features

    def write(self, x: Tensor, phi: Tensor) -> None:
        phi[0] = 1
        phi[1:-1] = x
        torch.sum(x * x, 0, out=phi[-1])

    def natural(self, mixture: Mixture) -> Tensor:
        precision = mixture.whitening.square().unsqueeze(1)
        linear = mixture.means * precision
        constant = mixture.log_scale() - 0.5 * (linear * mixture.means).sum(1)
        return torch.cat([constant.unsqueeze(1), linear, -0.5 * precision], 1)

    def moments(self, totals: Tensor, features: int, outer: Tensor | None) -> tuple[Tensor, Tensor]:
        return totals[:, 1:-1], totals[:, -1]

    def log_det(self, whitening: Tensor, features: int) -> Tensor:
        return features * whitening.log()

    def whiten(self, d: Tensor, whitening: Tensor) -> Tensor:
        return d * whitening[:, None, None]

    def second(self, y: Tensor, weighted: Tensor) -> Tensor:
        return (y * weighted).sum((1, 2))

    def colour(self, first: Tensor, second: Tensor, roots: Tensor) -> tuple[Tensor, Tensor]:
        return first * roots.unsqueeze(1), second * roots.square()

    def moved(self, second: Tensor, first: Tensor, counts: Tensor, by: Tensor) -> Tensor:
        return second - 2 * (first * by).sum(1) + counts * by.square().sum(1)

    def centred(self, second: Tensor, counts: Tensor, step: Tensor) -> Tensor:
        return second - counts * step.square().sum(1)

    def divided(self, scatter: Tensor, counts: Tensor, features: int) -> Tensor:
        return scatter / (counts * features)

    def add_diagonal(self, values: Tensor, covariances: Tensor) -> Tensor:
        return covariances + values.mean()

    def factor(self, covariances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        roots = covariances.sqrt()
        return roots, roots.reciprocal(), ~((roots > 0) & torch.isfinite(roots))

    def precision_diagonal(self, whitening: Tensor) -> Tensor:
        return whitening.square().unsqueeze(1)

    def scaled(self, covariances: Tensor, scale: Tensor) -> Tensor:
        return covariances * scale[0].square()

    def scaled_whitening(self, whitening: Tensor, scale: Tensor) -> Tensor:
        return whitening / scale[0]

    def dense(self, covariances: Tensor, components: int, features: int) -> Tensor:
        identity = torch.eye(features, dtype=covariances.dtype, device=covariances.device)
        return covariances[:, None, None] * identity

    def restrict(self, second: Tensor) -> Tensor:
        return second.diagonal(dim1=1, dim2=2).sum(1)
