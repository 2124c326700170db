"""The difference in log evidence between two rows, with its errors over data and seeds, and its p-value.

The difference of two rows for training seed s and datum i is modelled by crossed random effects,

    d_si = difference + datum_i + seed_s + residual_si,

because all seeds share the test data. Trainings are paired by the number of their seed. This is valid even if two
trainings with the same number are correlated, for example by their initial parameters and the order of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RowDifference", "estimate_difference"]


@dataclass(frozen=True)
class RowDifference:
    """The difference of two rows, and the test that their expected log evidence is equal.

    All tensors have the same shape.

    Attributes:
        value: the mean difference over seeds and data, in nats per datum.
        error: its standard error over data and seeds; only over data for one seed.
        degrees: the degrees of freedom of the test: seeds - 1, or data - 1 if this is less or there is one seed.
        p_value: two-sided p-value by Student's t; NaN for a single datum, or for values that are not finite.
    """

    value: Tensor
    error: Tensor
    degrees: int
    p_value: Tensor


def estimate_difference(differences: Tensor) -> RowDifference:
    """Return the mean difference of two rows with its errors and its p-value.

    D is the variance over data of the mean over seeds, divided by the number of data. S is the variance over seeds of
    the mean over data, divided by the number of seeds. R is the variance of the residuals, divided by both numbers. D
    and S both contain R, so the expectation of D + S - R is the variance of the mean. The estimate is at least D and at
    least S.

    The degrees of freedom by Welch and Satterthwaite are between those of the smaller component and the sum of both.
    Their estimate is too large if few seeds agree by chance, and with fewer than ten seeds the test would then reject
    too often. Therefore the test uses the smallest possible value.

    Args:
        differences: log evidence minus that of the reference, paired by seed and datum, float64, nats, shape
            (..., seeds, data); the leading dimensions are studies.

    Returns:
        The difference; its tensors have the shape of the studies.
    Source: Searle, Casella & McCulloch, Variance Components, 1992 (two-way crossed random model); Mickey
        & Brown, Bounds on the Distribution Functions of the Behrens-Fisher Statistic, Annals of Mathematical Statistics
        37 (1966) (a t test with the smallest degrees of freedom holds its level).
    """
    seeds, data = differences.shape[-2:]
    value = differences.mean((-2, -1))
    over_data = _variance(differences.mean(-2)) / data
    over_seeds = _variance(differences.mean(-1)) / seeds
    both = over_data + over_seeds - _residual_variance(differences) / (seeds * data)
    both = torch.maximum(both, torch.maximum(over_data, over_seeds))
    error = (both if seeds > 1 else over_data).sqrt()
    degrees = min(seeds - 1, data - 1) if seeds > 1 else data - 1
    p_value = _p_value(value, error, degrees)
    return RowDifference(value, error, degrees, p_value)


def _variance(values: Tensor) -> Tensor:
    """Return the unbiased variance over the last dimension; NaN for a single value."""
    return values.var(-1) if values.shape[-1] > 1 else values.sum(-1) * math.nan


def _residual_variance(values: Tensor) -> Tensor:
    """Return the unbiased variance of the residuals of seed plus datum; values have shape (..., seeds, data)."""
    seeds, data = values.shape[-2:]
    mean = values.mean((-2, -1), keepdim=True)
    residuals = values - values.mean(-1, keepdim=True) - values.mean(-2, keepdim=True) + mean
    return residuals.square().sum((-2, -1)) / max(1, (seeds - 1) * (data - 1))


def _p_value(value: Tensor, error: Tensor, degrees: int) -> Tensor:
    """Return the two-sided p-value of value / error under Student's t; 1 if both are 0."""
    from scipy.special import stdtr

    ratio = torch.where((error == 0) & (value == 0), 0.0, value.abs() / error)
    if degrees < 1:
        return torch.full_like(value, math.nan)
    return torch.as_tensor(2.0 * stdtr(degrees, -ratio.numpy()), dtype=torch.float64)
