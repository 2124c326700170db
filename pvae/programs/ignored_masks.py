"""Masks that a model does not take: values that are not observed would count as observed ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from pvae.errors import InputError
from pvae.programs.binding import Programs

__all__ = ["describe_ignored_masks", "require_masks_taken"]

_MASK = "mask"
_LENGTHS = "lengths"


def require_masks_taken(programs: Programs, batch: Mapping[str, Tensor]) -> None:
    """Refuse data with missing values or padding if the model takes no field that says so.

    Args:
        programs: both programs, bound to the fields of the batch.
        batch: named tensors.

    Raises:
        InputError: if the model would score the values in place of missing or padded ones as data.
    """
    for _, reason, advice in describe_ignored_masks(programs, batch):
        raise InputError(f"{reason} {advice}")


def describe_ignored_masks(programs: Programs, batch: Mapping[str, Tensor]) -> Iterator[tuple[str, str, str]]:
    """Yield the fields that mark values as missing or padded and that the model does not take, with reason and advice.

    Args:
        programs: both programs, bound to the fields of the batch.
        batch: named tensors. A mask of ones marks nothing.
    """
    for name, data in _hiding_fields(batch):
        if name in programs.fields_of_model or data not in programs.fields_of_model:
            continue
        hidden = _count_hidden(name, batch[name], batch[data])
        if not hidden:
            continue
        count, kind = (batch[data].numel(), "values") if name != _LENGTHS else (_count_steps(batch[data]), "time steps")
        state = "padding" if name == _LENGTHS else "missing"
        taker = "only the guide takes it" if name in programs.fields else "no program takes it"
        reason = (
            f"The field {name!r} marks {hidden} of {count} {kind} of {data} as {state}, and {taker}, so that the model "
            "scores what is in their place as data."
        )
        yield name, reason, _advice(name, data)


def _advice(name: str, data: str) -> str:
    if name == _LENGTHS:
        return (
            "Give the model a parameter lengths and score only the first time steps (the built-in sequence-vae does), "
            "or leave lengths out of the data if every time step is data."
        )
    built_in = "the built-in masked-vae does" if name == _MASK else "the built-in multimodal-vae does"
    return (
        f"Give the model a parameter {name} and score only the entries where it is 1 ({built_in}), fill in or remove "
        f"the missing values, or leave {name} out of the data if every value of {data} is data."
    )


def _hiding_fields(batch: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield the fields that mark values as missing or padded, each with the field of these values."""
    for name in batch:
        data = "x" if name in (_MASK, _LENGTHS) else name.removesuffix(f"_{_MASK}")
        if name != data and data in batch and isinstance(batch[name], Tensor) and isinstance(batch[data], Tensor):
            yield name, data


def _count_hidden(name: str, marks: Tensor, data: Tensor) -> int:
    """Return the number of values with mask 0, or of time steps after the end of their sequences."""
    if name != _LENGTHS:
        return int((marks == 0).sum()) * max(1, data.numel() // max(1, marks.numel()))
    if data.dim() < 2 or marks.dim() != 1 or marks.dtype.is_complex:
        return 0
    return int((data.shape[1] - marks).clamp(min=0).sum())


def _count_steps(data: Tensor) -> int:
    """Return the number of time steps of all sequences."""
    return data.shape[0] * data.shape[1]
