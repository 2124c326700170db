"""Checks of numbers that callers pass: counts, sizes and real numbers in a range."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import TypeGuard

from pvae.errors import InputError

__all__ = ["is_number", "is_whole", "require_number", "require_positive", "require_sizes", "require_whole"]


def is_whole(value: object) -> TypeGuard[int]:
    """Return whether a value is a Python or NumPy integer; booleans are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a real number of Python or NumPy, NaN and infinity included; booleans are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def require_whole(value: object, name: str, *, least: int = 1, most: int | None = None, advice: str = "") -> int:
    """Return a count or a size as a Python integer.

    Args:
        value: the value that the caller passed; NumPy integers are accepted, booleans and floats are not.
        name: name of the argument, for the message.
        least: the smallest value that is accepted.
        most: the largest value that is accepted; None for no upper limit.
        advice: a sentence that says what to do, for the end of the message.

    Raises:
        InputError: if the value is not a whole number in the range.
    """
    if is_whole(value) and least <= value and (most is None or value <= most):
        return operator.index(value)
    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise _refusal(f"{name} needs a whole number {span}", value, advice)


def require_sizes(value: object, name: str, *, zero: bool = False, advice: str = "") -> tuple[int, ...]:
    """Return one size, or a sequence of sizes, as a tuple of Python integers; an empty sequence gives ().

    Args:
        value: the value that the caller passed.
        name: name of the argument, for the message.
        zero: whether the number 0 is accepted and gives (), as "no hidden layer" is written on a command line.
        advice: a sentence that says what to do, for the end of the message.

    Raises:
        InputError: if a size is not a whole number of at least 1.
    """
    sizes = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if zero and len(sizes) == 1 and is_whole(sizes[0]) and sizes[0] == 0:
        return ()
    if not all(is_whole(size) and size >= 1 for size in sizes):
        raise _refusal(f"{name} needs whole numbers of at least 1", value, advice)
    return tuple(operator.index(size) for size in sizes)


def require_number(
    value: object,
    name: str,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    infinite: bool = False,
    advice: str = "",
) -> float:
    """Return a real number as Python's int or float: whole numbers stay int.

    Args:
        value: the value that the caller passed; NumPy's numbers are accepted, booleans and NaN are not.
        name: name of the argument, for the message.
        least: the smallest value that is accepted.
        most: the largest value that is accepted.
        above: the value must be greater than this one.
        below: the value must be less than this one.
        infinite: whether an infinite value within these limits is accepted.
        advice: a sentence that says what to do, for the end of the message.

    Raises:
        InputError: if the value is not a number in the range.
    """
    limits = {"of at least": least, "above": above, "of at most": most, "below": below}
    if is_number(value) and (infinite or math.isfinite(value)) and _is_inside(value, limits):
        return _as_python(value)
    raise _refusal(f"{name} needs {_describe_range(limits)}", value, advice)


def require_positive(value: object, name: str, *, advice: str = "") -> float:
    """Return a finite number above 0 as Python's int or float.

    Args:
        value: the value that the caller passed; NumPy's numbers are accepted, booleans are not.
        name: name of the argument, for the message.
        advice: a sentence that says what to do, for the end of the message.

    Raises:
        InputError: if the value is not a finite number above 0.
    """
    if is_number(value) and 0 < value < math.inf:
        return _as_python(value)
    raise _refusal(f"{name} needs a positive number", value, advice)


_COMPARE = {"of at least": operator.ge, "above": operator.gt, "of at most": operator.le, "below": operator.lt}


def _is_inside(value: float, limits: Mapping[str, float | None]) -> bool:
    """Return whether a number, which is not NaN, respects every limit that is set."""
    kept = [_COMPARE[words](value, limit) for words, limit in limits.items() if limit is not None]
    return not math.isnan(value) and all(kept)


def _describe_range(limits: Mapping[str, float | None]) -> str:
    """Return the numbers that are accepted, in words: "a number from 0 to below 1"."""
    least, most, below = limits["of at least"], limits["of at most"], limits["below"]
    if least is not None and most is not None:
        return f"a number from {least:g} to {most:g}"
    if least is not None and below is not None:
        return f"a number from {least:g} to below {below:g}"
    spans = [f"{words} {limit:g}" for words, limit in limits.items() if limit is not None]
    return f"a number {' and '.join(spans)}" if spans else "a finite number"


def _as_python(value: float) -> float:
    return operator.index(value) if is_whole(value) else float(value)


def _refusal(needed: str, value: object, advice: str) -> InputError:
    return InputError(f"{needed}; got {value!r}." + (f" {advice}" if advice else ""))
