"""Standardised coordinates: data and mixtures shifted by the mean and scaled by the standard deviation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pvae.em.base import Mixture
from pvae.em.rows.row_sources import RowSource
from pvae.em.rows.value_checks import check_observed, chunk_rows, sum_observed

__all__ = ["Standardiser", "fit_standardiser", "standardiser_of_mixture"]

#: Sums a float64 tensor over processes.
SumOverProcesses = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Standardiser:
    """Standardised coordinates u = (x - shift) / scale.

    Attributes:
        shift: mean of each feature, (features,), float64.
        scale: standard deviation of each feature, and 1 for a constant feature, (features,), float64; spherical
            covariances need one number for all features.
        mean_square: mean square of each feature of u, (features,): 1, and 0 for a constant feature.
        variance: variance of each feature of x, (features,).
        observed_share: share of the data, by weight, in which each feature is observed, (features,).
        weight: sum of the sample weights.
        rows: number of rows.
    """

    shift: Tensor
    scale: Tensor
    mean_square: Tensor
    variance: Tensor
    observed_share: Tensor
    weight: float
    rows: int

    def log_scale(self) -> float:
        """Return the mean of log p(u) - log p(x), nats per datum; a missing value has no density."""
        return float((self.observed_share * self.scale.log()).sum())

    def standardise(self, mixture: Mixture) -> Mixture:
        """Return the mixture of u, given the mixture of x."""
        return _scale_mixture(mixture, (mixture.means - self.shift) / self.scale, 1 / self.scale)

    def unstandardise(self, mixture: Mixture) -> Mixture:
        """Return the mixture of x, given the mixture of u."""
        return _scale_mixture(mixture, mixture.means * self.scale + self.shift, self.scale)


def _scale_mixture(mixture: Mixture, means: Tensor, scale: Tensor) -> Mixture:
    """Return the mixture of data whose features are multiplied by `scale`, with the given means."""
    family = mixture.family
    return replace(
        mixture,
        means=means,
        covariances=family.scale_covariances(mixture.covariances, scale),
        whitening=family.scale_whitening(mixture.whitening, scale),
        roots=family.scale_whitening(mixture.roots, 1 / scale),
    )


def standardiser_of_mixture(mixture: Mixture) -> Standardiser:
    """Return the standardised coordinates of data that are distributed as a mixture."""
    weights = mixture.weights / mixture.weights.sum()
    shift = weights @ mixture.means
    dense = mixture.family.to_dense(mixture.covariances, mixture.components, mixture.features)
    variance = weights @ (dense.diagonal(dim1=1, dim2=2) + (mixture.means - shift).square())
    one_scale = mixture.family.name == "spherical"
    scale, mean_square, variance = _find_scale(shift, variance, one_scale)
    return Standardiser(shift, scale, mean_square, variance, torch.ones_like(shift), 1.0, 1)


def fit_standardiser(
    rows: RowSource,
    *,
    one_scale: bool,
    has_missing: bool,
    sum_over_processes: SumOverProcesses = lambda values: values,
) -> Standardiser:
    """Return the standardised coordinates of data, after two passes over them.

    Args:
        rows: the data.
        one_scale: use one scale for all features, as spherical covariances need.
        has_missing: whether NaN marks missing values, which are left out.
        sum_over_processes: sums a float64 tensor over processes.

    Raises:
        InputError: for values that are not finite or too large to square, or a feature without observed values.
    """
    size = chunk_rows(rows.features)
    sums = torch.zeros(2, rows.features, dtype=torch.float64, device=rows.device)
    own_rows = 0
    for x, weights in rows.chunks(size):
        sums += sum_observed(x.double(), weights, own_rows, has_missing)
        own_rows += len(x)
    row_count = sum_over_processes(torch.tensor([float(own_rows)], dtype=torch.float64, device=rows.device))
    sums = sum_over_processes(sums)
    check_observed(sums[1])
    shift = sums[0] / sums[1]
    squares, weight = _sum_squares(rows, shift, size, has_missing)
    variance = sum_over_processes(squares) / sums[1]
    weight = sum_over_processes(weight)
    scale, mean_square, variance = _find_scale(shift, variance, one_scale)
    return Standardiser(shift, scale, mean_square, variance, sums[1] / weight, float(weight), int(row_count))


def _sum_squares(rows: RowSource, shift: Tensor, size: int, has_missing: bool) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of squared deviations from `shift`, (features,), and the sum of the weights, ()."""
    squares = torch.zeros_like(shift)
    weight = torch.zeros((), dtype=torch.float64, device=rows.device)
    for x, weights in rows.chunks(size):
        deviations = (x.double() - shift).square_()
        deviations = deviations.nan_to_num_(0.0) if has_missing else deviations
        squares += deviations.sum(0) if weights is None else weights @ deviations
        weight += len(x) if weights is None else weights.sum()
    return squares, weight


def _find_scale(shift: Tensor, variance: Tensor, one_scale: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return scale, mean square of u, and variance with 0 for constant features, each (features,)."""
    # A smaller variance is rounding error of the mean.
    is_constant = variance <= (8 * torch.finfo(torch.float64).eps * shift).square()
    scale = variance.sqrt().where(~is_constant, 1.0)
    if one_scale:
        varying = variance[~is_constant]
        common = varying.mean().sqrt() if len(varying) else scale.new_ones(())
        scale = common.expand_as(scale).contiguous()
    mean_square = (variance / scale.square()).where(~is_constant, 0.0)
    return scale, mean_square, variance.where(~is_constant, 0.0)
