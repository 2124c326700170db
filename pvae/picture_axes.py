"""The rule that finds the dimension of the channels of a picture."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["has_channels_last"]

_COUNTS = (1, 3, 4)


def has_channels_last(shape: Sequence[int]) -> bool:
    """Return whether a picture has its channels last: the last of three sizes is 1, 3 or 4, and the first is not.

    >>> has_channels_last((28, 28, 3)), has_channels_last((3, 28, 28)), has_channels_last((28, 28))
    (True, False, False)

    Args:
        shape: the shape of one picture.
    """
    return len(shape) == 3 and shape[-1] in _COUNTS and shape[0] not in _COUNTS
