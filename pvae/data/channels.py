"""The position of the channels of pictures: pvae puts channels first, and moves channels that are last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from pvae.errors import InputError
from pvae.picture_axes import has_channels_last

__all__ = ["CHANNELS", "with_channels_first"]

CHANNELS = ("auto", "first", "last")


def with_channels_first(fields: Mapping[str, Any], channels: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return fields in which the channels of pictures are first, and a note on the change.

    Args:
        fields: arrays by name; ``x``, ``mask`` and those of other splits are changed.
        channels: ``"last"`` moves the channels of pictures with three dimensions, ``"first"`` does not, ``"auto"``
            moves them if the last dimension is 1, 3 or 4 and the first one is not.

    Raises:
        InputError: if `channels` is another word, or the pictures have no channels to move.
    """
    if channels not in CHANNELS:
        raise InputError(f"channels needs one of {', '.join(CHANNELS)}; got {channels!r}.")
    shape = tuple(np.shape(fields["x"]))[1:] if "x" in fields else ()
    if channels == "last" and len(shape) != 3:
        raise InputError(f"channels='last' needs pictures (height, width, channels); one datum has shape {shape}.")
    if channels == "first" or (channels == "auto" and not has_channels_last(shape)):
        return dict(fields), ()
    turned = {name: _turned(value) if _is_picture(name, value, shape) else value for name, value in fields.items()}
    new = (shape[2], *shape[:2])
    note = "" if channels == "last" else "; channels='first' leaves them as they are"
    return turned, (f"pictures of shape {shape} have their channels last, and are turned to {new}{note}",)


def _is_picture(name: str, value: Any, shape: Sequence[int]) -> bool:
    stem = name.rpartition("_")[0] or name
    return (name in ("x", "mask") or stem in ("x", "mask")) and tuple(np.shape(value))[1:] == tuple(shape)


def _turned(value: Any) -> Any:
    return value.movedim(-1, 1) if isinstance(value, Tensor) else np.moveaxis(value, -1, 1)
