"""Checks that values are finite, and weighted sums of the observed values."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.rows.row_sources import RowSource
from pvae.errors import InputError

__all__ = ["check_finite", "check_observed", "chunk_rows", "compute_observed_share", "sum_observed"]

#: The square of a larger value overflows float64.
LARGEST = 1e150


def chunk_rows(features: int) -> int:
    """Return the number of rows for which a float64 chunk stays in the cache of a core."""
    return max(256, (1 << 20) // (8 * features))


def check_finite(x: Tensor, *, has_missing: bool) -> None:
    """Check that all values are finite and small enough to square.

    Args:
        x: (rows, features).
        has_missing: whether NaN marks missing values, which are allowed.

    Raises:
        InputError: otherwise; the message names row and column of the first such value.
    """
    size = chunk_rows(x.shape[1])
    for start in range(0, len(x), size):
        sum_observed(x[start : start + size].double(), None, start, has_missing)


def check_observed(counts: Tensor) -> None:
    """Check that each feature has a value of positive weight.

    Args:
        counts: sum of the sample weights of the observed values of each feature, (features,).

    Raises:
        InputError: otherwise; the message names the first such feature.
    """
    unobserved = (counts <= 0).nonzero().flatten().tolist()
    if unobserved:
        raise InputError(
            f"Each feature needs a value of positive weight; column {unobserved[0]} has none. Remove this column."
        )


def compute_observed_share(rows: RowSource) -> Tensor:
    """Return the share of the data, by weight, in which each feature is observed, (features,)."""
    sums = torch.zeros(2, rows.features, dtype=torch.float64, device=rows.device)
    for x, weights in rows.chunks(1 << 14):
        w = torch.ones(len(x), dtype=torch.float64, device=x.device) if weights is None else weights
        sums += torch.stack([w @ (~x.isnan()).double(), w.sum().expand(rows.features)])
    return sums[0] / sums[1]


def sum_observed(x: Tensor, weights: Tensor | None, first_row: int, has_missing: bool) -> Tensor:
    """Return the weighted sums and the summed weights of the observed values of a chunk, (2, features).

    Args:
        x: (batch, features), float64.
        weights: sample weights, (batch,), or None for 1 each.
        first_row: number of the first row, for the error message.
        has_missing: whether NaN marks missing values.

    Raises:
        InputError: for values that are not finite or too large to square.
    """
    largest = x.abs().amax(0)
    if bool((largest < LARGEST).all()):
        sums = x.sum(0) if weights is None else weights @ x
        count = torch.as_tensor(len(x) if weights is None else weights.sum(), dtype=x.dtype, device=x.device)
        return torch.stack([sums, count.expand_as(sums)])
    is_missing = x.isnan()
    is_wrong = ~(x.abs() < LARGEST) & ~(is_missing & has_missing)
    if bool(is_wrong.any()):
        raise _make_error(x, is_wrong, first_row)
    observed_weights = (~is_missing).double() if weights is None else weights.unsqueeze(1) * ~is_missing
    return torch.stack([(x.nan_to_num(0.0) * observed_weights).sum(0), observed_weights.sum(0)])


def _make_error(x: Tensor, is_wrong: Tensor, first_row: int) -> InputError:
    row, column = is_wrong.nonzero()[0].tolist()
    nan = int((x.isnan() & is_wrong).sum())
    infinite = int(x.isinf().sum())
    large = int(is_wrong.sum()) - nan - infinite
    counted = [(nan, "NaN"), (infinite, "infinity"), (large, "too large")]
    kinds = ", ".join(f"{count} {kind}" for count, kind in counted if count)
    if nan:
        advice = "or set missing='marginalise' if NaN marks missing values"
    else:
        advice = f"so that all are below {LARGEST:g} in absolute value"
    return InputError(
        f"X needs finite values; rows {first_row} to {first_row + len(x) - 1} contain {kinds}, the first in row "
        f"{first_row + row}, column {column} ({float(x[row, column]):g}). Remove or rescale these values, {advice}."
    )
