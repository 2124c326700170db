"""Settings of models of objects in pictures: the shapes of pictures and windows, and the probabilities of objects."""

from __future__ import annotations

from collections.abc import Sequence

from pvae.checks import require_number, require_sizes
from pvae.errors import InputError

__all__ = ["picture_shape", "presence_by_step", "window_shape"]

_LEAST_PRESENCE = 1e-6  # for much smaller probabilities, the float32 log-density of a Bernoulli is wrong


def picture_shape(data_shape: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of grey pictures; one channel is left out.

    Args:
        data_shape: the shape of one x.

    Raises:
        InputError: for another shape.
    """
    shape = require_sizes(data_shape, "data_shape", advice="It is the shape of one x, such as (24, 24).")
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2:
        raise InputError(
            f"AIR needs grey pictures, data_shape (height, width); got {shape}. Give x the shape of pictures."
        )
    return shape[0], shape[1]


def window_shape(window: int | Sequence[int] | None, picture: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the picture of one object.

    Args:
        window: both sizes, or one number for both; None for a third of the picture.
        picture: height and width of the picture.

    Raises:
        InputError: for another number of sizes.
    """
    if window is None:
        return max(1, picture[0] // 3), max(1, picture[1] // 3)
    shape = require_sizes(window, "window", advice="It is the size of the picture of an object, such as 8.")
    if len(shape) not in (1, 2):
        raise InputError(f"window needs one number or two, height and width; got {window!r}.")
    return shape[0], shape[-1]


def presence_by_step(presence: float | Sequence[float] | None, steps: int) -> tuple[float, ...]:
    """Return the probability of a further object at each step.

    Args:
        presence: one number for each step, or one for all; None for the default.
        steps: the largest number of objects.

    Raises:
        InputError: for another number of probabilities, or one that is too close to 0 or 1.
    Source of the default: close to 0.05, 0.05 ** 2.3 and 0.05 ** 5, those of the code of Becker et al., Probabilistic
    Programming with Programmable Variational Inference, arXiv:2406.15742.
    """
    if presence is None:
        return tuple(max(0.05 ** (2.25**t), _LEAST_PRESENCE) for t in range(steps))
    values = tuple(presence) if isinstance(presence, Sequence) else (presence,) * steps
    if len(values) != steps:
        raise InputError(f"presence needs one number, or one for each of the {steps} steps; got {presence!r}.")
    return tuple(require_number(value, "presence", least=_LEAST_PRESENCE, most=1 - _LEAST_PRESENCE) for value in values)
