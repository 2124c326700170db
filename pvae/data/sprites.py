"""Generated sprites: small pictures of one shape each, of which every factor is known."""

from __future__ import annotations

import itertools

import numpy as np

__all__ = ["FACTORS", "draw_sprites"]

SIZE = 16
#: number of values of each factor: shape (square, ellipse, triangle), size, column and row of the centre
FACTORS = {"shape": 3, "size": 3, "column": 9, "row": 9}


def draw_sprites() -> tuple[np.ndarray, np.ndarray]:
    """Return every sprite and its factors: pictures (729, 16, 16) of 0 and 1, and whole numbers (729, 4).

    One picture for each combination of `FACTORS`. A model of them has nothing to learn but these four, which is what
    makes its codes comparable with them; after dSprites, at a size for a short training.

    Source: Matthey et al., dSprites: Disentanglement testing Sprites dataset (2017).
    """
    factors = np.array(list(itertools.product(*(range(count) for count in FACTORS.values()))))
    return np.stack([_sprite(*each) for each in factors]).astype(np.float32), factors


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
