"""Whether data can be given to programs: at least one datum, and finite values where they are observed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pvae.batch import check_finite
from pvae.errors import InputError
from pvae.structures import is_structure

__all__ = ["NO_DATA", "require_usable"]

NO_DATA = "The batch is empty: its first dimension has size 0. Give at least one datum."


def require_usable(fields: Mapping[str, Any]) -> None:
    """Refuse a batch without data, and values that are not finite and count.

    A value does not count where ``mask`` is 0 (``w_mask`` for the field ``w``), nor after the end of a sequence.

    Args:
        fields: named tensors, or arguments by name; values that are no tensors are not checked.

    Raises:
        InputError: with the field, the number of values that are not finite and the position of the first.
    """
    tensors = {name: value for name, value in fields.items() if not is_structure(value)}
    if any(len(tensor) == 0 for tensor in tensors.values()):
        raise InputError(NO_DATA)
    for name, tensor in tensors.items():
        mask = tensors.get("mask" if name == "x" else f"{name}_mask")
        lengths = tensors.get("lengths") if name == "x" else None
        check_finite(name, tensor, partial(_counting, mask=mask, lengths=lengths))


def _counting(value: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Return values with 0 where they do not count, in the shape of `value`.

    Args:
        value: shape (batch, ...).
        mask: 1 observed, 0 missing, for each value, or for the first dimensions of the values, such as one for each
            datum or time step, or with dimensions of size 1; None if all are observed. Masks of other shapes are not
            used.
        lengths: the number of time steps of each sequence, (batch,); None if all are complete.
    """
    if mask is not None:
        if mask.numel() == value.numel():
            mask = mask.reshape(value.shape)
        elif mask.shape == value.shape[: mask.dim()]:
            mask = mask.reshape(*mask.shape, *[1] * (value.dim() - mask.dim()))
        is_usable = mask.dim() == value.dim() and all(map(_is_one_or_equal, mask.shape, value.shape))
        value = torch.where(mask > 0, value, 0) if is_usable else value
    if lengths is not None and value.dim() > 1 and lengths.dim() == 1:
        present = torch.arange(value.shape[1], device=value.device) < lengths.unsqueeze(-1)
        value = torch.where(present.reshape(*present.shape, *[1] * (value.dim() - 2)), value, 0)
    return value


def _is_one_or_equal(size: int, other: int) -> bool:
    return size in (1, other)
