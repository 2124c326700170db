"""The time steps of padded sequences: their lengths, which steps are present, and zeros in place of padding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pvae.checks import require_sizes
from pvae.errors import InputError
from pvae.weights.tracing import is_traced

__all__ = ["check_lengths", "check_sequence_shape", "masked_step", "present_steps", "zero_ended"]


def check_sequence_shape(data_shape: int | Sequence[int]) -> tuple[int, ...]:
    """Return the shape of one sequence, (time, features) or (time,).

    Raises:
        InputError: for sizes that are not whole numbers of at least 1, or for none.
    """
    sizes = require_sizes(data_shape, "data_shape", advice="It is the shape of one sequence, (time, features).")
    if not sizes:
        raise InputError("data_shape needs (time, features) of one sequence; got (). Give x a dimension of time.")
    return sizes


def check_lengths(lengths: Tensor, size: int, time: int) -> None:
    """Check the lengths of sequences.

    Args:
        lengths: the number of time steps of each sequence, (batch,).
        size: the number of sequences.
        time: the number of time steps of x.

    Raises:
        InputError: for another shape, for numbers that are not whole, or for lengths outside 1 to `time`.
    """
    if lengths.shape != (size,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise InputError(
            f"lengths needs one whole number for each of {size} sequences; got {lengths.dtype} of shape "
            f"{tuple(lengths.shape)}. Give the number of time steps of each sequence, shape ({size},)."
        )
    is_outside = (lengths < 1) | (lengths > time)
    if bool(is_outside.any()):
        first = int(is_outside.nonzero()[0])
        raise InputError(
            f"lengths needs whole numbers from 1 to {time}, the number of time steps of x; got {int(lengths[first])} "
            f"for datum {first}. Correct it, or leave out sequences without a time step."
        )


def present_steps(lengths: Tensor | None, x: Tensor, time: int) -> Tensor | None:
    """Return True before the end of each sequence, (batch, time); None if all sequences are complete.

    Args:
        lengths: the number of time steps of each sequence, (batch,), or None.
        x: the data, (batch, ...).
        time: the number of time steps of x.

    Raises:
        InputError: for lengths that are not whole numbers from 1 to `time`.
    """
    if lengths is None:
        return None
    # A traced step cannot read values. The eager step before it and `initialise_from` have checked them.
    if not is_traced():
        check_lengths(lengths, x.shape[0], time)
    return torch.arange(time, device=lengths.device) < lengths.unsqueeze(-1)


def masked_step(present: Tensor | None, t: int) -> AbstractContextManager[Any]:
    """Return a block in which sites count only for sequences that have not ended before a time step.

    Args:
        present: True before the end of each sequence, (batch, time); None if all are complete.
        t: the number of the time step.
    """
    if present is None:
        return nullcontext()
    mask: Any = present[:, t]
    return poutine.mask(mask=mask)


def zero_ended(values: Tensor, present: Tensor | None, event_dims: int) -> Tensor:
    """Return values with 0 after the end of each sequence. A product with the mask would keep NaN.

    Args:
        values: (..., batch, *event) of one time step, or (..., batch, time, *event).
        present: True for the sequences that have not ended, (batch,), or (batch, time); None if all are complete.
        event_dims: the number of dimensions of the event.
    """
    if present is None:
        return values
    mask = present.reshape(present.shape + (1,) * event_dims)
    return torch.where(mask, values, torch.zeros_like(values))
