"""The formats of numbers in the table, the page and the progress of a comparison."""

from __future__ import annotations

import math

from pvae.evaluate import Estimate

__all__ = [
    "UNKNOWN",
    "format_bracket",
    "format_count",
    "format_duration",
    "format_interval",
    "format_number",
    "format_percentage",
]

UNKNOWN = "-"
_SMALL_ERROR = 0.095  # it is shown by three decimals
_LEAST_ERROR = 0.0005  # three decimals would show it as 0.000


def format_number(value: float, decimals: int = 2, sign: bool = False) -> str:
    """Return a number, or a dash if it is NaN.

    Args:
        value: the number.
        decimals: digits after the point.
        sign: whether positive numbers have a plus sign.
    """
    if math.isnan(value):
        return UNKNOWN
    # The sum with 0 removes the sign of a negative number that is rounded to zero.
    rounded = round(value, decimals) + 0.0
    return f"{rounded:{'+' if sign else ''}.{decimals}f}"


def format_interval(estimate: Estimate, sign: bool = False) -> str:
    """Return an estimate with its standard error, such as ``"-26.58 ± 0.17"``.

    Args:
        estimate: the estimate.
        sign: whether a positive value has a plus sign.
    """
    decimals = _decimals(estimate.error)
    return f"{format_number(estimate.value, decimals, sign)} ± {format_number(estimate.error, decimals)}"


def _decimals(error: float) -> int:
    """Return the number of decimals that shows an error, at most six.

    A small error gets a third decimal, so that the error of a paired difference does not read as 0.00, and a smaller
    one as many as show two significant digits. Below 1e-6, an error is that of rounding.
    """
    if not 1e-6 <= error < _SMALL_ERROR:
        return 3 if 0 < error < _SMALL_ERROR else 2
    return min(6, max(3, 1 - math.floor(math.log10(error)))) if error < _LEAST_ERROR else 3


def format_bracket(lower: Estimate, upper: Estimate, sign: bool = False) -> str:
    """Return a lower and an upper estimate, such as ``"-26.58 ± 0.17 to -26.49 ± 0.16"``.

    Args:
        lower: the lower estimate.
        upper: the upper estimate.
        sign: whether positive values have a plus sign.
    """
    return f"{format_interval(lower, sign)} to {format_interval(upper, sign)}"


def format_percentage(share: float, decimals: int = 0) -> str:
    """Return a share as a percentage, such as ``"22%"``."""
    return f"{100 * share:.{decimals}f}%"


def format_count(value: float) -> str:
    """Return a large count with three digits, such as ``"1.29M"``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def format_duration(seconds: float) -> str:
    """Return a duration, such as ``"0.4 s"``, ``"38 s"``, ``"12 min"`` or ``"3.1 h"``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
