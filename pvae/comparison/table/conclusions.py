"""The conclusion about the difference of a row to the first row."""

from __future__ import annotations

import math

__all__ = ["ABOVE", "BELOW", "LEVEL", "NOT_BRACKETED", "NOT_SEPARATED", "NOT_SHOWN", "NOT_TESTED", "conclude"]

#: The family-wise level of all tests of a table: the probability of any wrong claim if all rows are equal.
LEVEL = 0.05

ABOVE, BELOW = "above", "below"
NOT_SHOWN = "no difference shown"
NOT_SEPARATED = "not separated from the bias"
NOT_BRACKETED = "not separated by the bracket"
NOT_TESTED = "not tested"


def conclude(difference: float, adjusted_p_value: float, margin: float | None, middle_p_value: float = math.nan) -> str:
    """Return the conclusion about a difference in log evidence.

    Args:
        difference: the difference to the first row without the estimated biases, in nats per datum.
        adjusted_p_value: its p-value, adjusted for all rows of the table; NaN if there is no test.
        margin: the larger margin of the two biases, in nats per datum; None if it is not known.
        middle_p_value: for brackets, the p-value of the difference of their middles, adjusted for all rows; else NaN.
    """
    if math.isnan(adjusted_p_value):
        return NOT_TESTED
    if adjusted_p_value > LEVEL:
        return NOT_BRACKETED if middle_p_value <= LEVEL else NOT_SHOWN
    if margin is not None and abs(difference) <= margin:
        return NOT_SEPARATED
    return ABOVE if difference > 0 else BELOW
