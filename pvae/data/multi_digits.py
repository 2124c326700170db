"""Pictures of several digits: none, one or more of them, at random positions of an empty canvas."""

from __future__ import annotations

import numpy as np

from pvae.checks import require_whole
from pvae.errors import InputError

__all__ = ["draw_multi_digits"]

_TRIES = 1000


def draw_multi_digits(
    digits: np.ndarray, count: int, *, side: int = 24, most: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of 0 to `most` digits, and the number of digits in each.

    Every number of digits has the same probability. Each digit is inside the canvas at a uniformly distributed
    position. Digits of one picture may touch, but do not cover each other: if the sum of two pixels exceeds 1, the
    digits and their positions are drawn again. Therefore two wide digits occur together less often than two narrow
    ones.

    Args:
        digits: pictures of one digit, shape (digits, height, width), values from 0 to 1.
        count: the number of pictures.
        side: height and width of the canvas in pixels, at least the size of a digit.
        most: the largest number of digits in a picture.
        seed: the seed of the generator; equal arguments give equal pictures.

    Returns:
        The pictures, shape (count, side, side), float32, and the numbers of digits, shape (count,), int64.

    Raises:
        InputError: if the digits have another shape or other values, do not fit on the canvas, or find no free place
            in 1000 draws.
    Source: Eslami et al., Attend, Infer, Repeat, arXiv:1603.08575, section 3.1; Pyro's ``multi_mnist``.

    Example:
        >>> import numpy as np
        >>> from pvae.data import draw_multi_digits
        >>> x, y = draw_multi_digits(np.ones((1, 2, 2)), 4, side=6, seed=1)
        >>> (x.sum((1, 2)) / 4).astype(int).tolist() == y.tolist()
        True
    """
    count, side, most = require_whole(count, "count"), require_whole(side, "side"), require_whole(most, "most")
    digits = np.asarray(digits, dtype=np.float32)
    if digits.ndim != 3 or not digits.size or not (digits.min() >= 0 and digits.max() <= 1):
        raise InputError(
            "digits needs pictures of shape (digits, height, width) with values from 0 to 1; got shape "
            f"{digits.shape}{_extent(digits)}. Reshape them, or divide them by their largest value."
        )
    if max(digits.shape[1:]) > side:
        raise InputError(
            f"side needs to be at least {max(digits.shape[1:])}, the size of a digit; got {side}. Use a larger canvas."
        )
    generator = np.random.default_rng(seed)
    counts = generator.integers(most + 1, size=count)
    return np.stack([_picture(digits, number, side, generator) for number in counts]), counts


def _extent(digits: np.ndarray) -> str:
    return f" and values from {digits.min():.3g} to {digits.max():.3g}" if digits.size else ""


def _picture(digits: np.ndarray, number: int, side: int, generator: np.random.Generator) -> np.ndarray:
    """Return one picture with a number of digits, shape (side, side)."""
    height, width = digits.shape[1:]
    for _ in range(_TRIES):
        picture = np.zeros((side, side), np.float32)
        for digit in digits[generator.integers(len(digits), size=number)]:
            row, column = generator.integers(side - height + 1), generator.integers(side - width + 1)
            picture[row : row + height, column : column + width] += digit
        if picture.max() <= 1:
            return picture
    raise InputError(
        f"{number} digits of {height} x {width} pixels have no free place on a canvas of {side} x {side} pixels in "
        f"{_TRIES} draws. Use a larger side, or a smaller most."
    )
