"""Generated sprites: small pictures of one shape each, with known factors of variation."""

from __future__ import annotations

import itertools

import numpy as np

__all__ = ["FACTORS", "draw_sprites"]

SIZE = 16
#: number of values of each factor: shape (square, ellipse, triangle), size, column and row of the centre
FACTORS = {"shape": 3, "size": 3, "column": 9, "row": 9}


def draw_sprites() -> tuple[np.ndarray, np.ndarray]:
    """Return all sprites, one for each combination of `FACTORS`, with their factors.

    The four factors determine the picture, so the codes of a model can be compared with them. The data follow dSprites,
    at a size for a short training.

    Returns:
        Pictures of 0 and 1, shape (729, 16, 16), and the number of the value of each factor, shape (729, 4).
    Source: Matthey et al., dSprites: Disentanglement testing Sprites dataset (2017).
    """
    factors = np.array(list(itertools.product(*(range(count) for count in FACTORS.values()))))
    return np.stack([_sprite(*values) for values in factors]).astype(np.float32), factors


def _sprite(shape: int, size: int, column: int, row: int) -> np.ndarray:
    radius = 1.4 + size
    across, down = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    x, y = (across - 4 - column) / radius, (down - 4 - row) / radius
    inside = (
        np.maximum(abs(x), abs(y)) <= 1.0,
        x**2 + (1.7 * y) ** 2 <= 1.2,
        (y <= 0.9) & (abs(x) <= 0.55 * (y + 1.1)),
    )
    picture: np.ndarray = inside[shape]
    return picture
