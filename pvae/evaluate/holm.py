"""Holm's adjustment of several p-values to one family-wise level."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["holm"]


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values that are adjusted by Holm's method, in the same order.

    If all hypotheses whose adjusted p-value is at most 0.05 are rejected, the probability of any false rejection is at
    most 0.05.

    Args:
        p_values: p-values, shape (tests,).

    Returns:
        Adjusted p-values from 0 to 1, shape (tests,).

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 6 (1979).
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return adjusted
