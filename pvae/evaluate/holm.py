"""Holm's adjustment of several p-values to one family-wise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["adjust_by_holm"]


def adjust_by_holm(p_values: Tensor) -> Tensor:
    """Return p-values that are adjusted by Holm's method, in the same order, from 0 to 1.

    If all hypotheses with an adjusted p-value of at most 0.05 are rejected, the probability of any false rejection is
    at most 0.05.

    Args:
        p_values: the p-values of each family, shape (..., tests); NaN for a test that could not be made.

    Returns:
        The adjusted p-values, shape (..., tests); NaN where `p_values` is NaN.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6 (1979).
    """
    tests = (~p_values.isnan()).sum(-1, keepdim=True)
    ordered = p_values.nan_to_num(nan=math.inf).sort(-1)
    factors = (tests - torch.arange(p_values.shape[-1])).clamp(min=1)
    adjusted = (ordered.values * factors).cummax(-1).values.clamp(max=1.0)
    return torch.where(p_values.isnan(), math.nan, torch.empty_like(p_values).scatter(-1, ordered.indices, adjusted))
