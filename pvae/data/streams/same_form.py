"""The check that all data have the fields, shapes and types of the first data."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.structures import is_structure

__all__ = ["Forms", "check_agreement", "form_text"]

#: The shape of a datum and the type of each field.
Forms: TypeAlias = dict[str, tuple[tuple[int, ...], Any]]


def check_agreement(batch: Batch, first: Forms, *, has_fixed_shapes: bool) -> None:
    """Check that data have the fields, shapes and types of the data that were read first.

    Args:
        batch: the data.
        first: the form of the data that were read first; it is filled by the first call.
        has_fixed_shapes: whether all data need one shape; otherwise tensors need the same number of dimensions.

    Raises:
        InputError: if they differ.
    """
    if not first:
        first.update({name: _form(value) for name, value in batch.items()})
    if first.keys() != set(batch.names):
        raise InputError(
            f"All data need the same fields. The first data have {', '.join(first)}; these have "
            f"{', '.join(batch.names)}. Return the same fields for each datum."
        )
    for name, tensor in batch.items():
        shape, dtype = first[name]
        own_shape, own_dtype = _form(tensor)
        if own_shape != shape if has_fixed_shapes else len(own_shape) != len(shape):
            raise InputError(
                f"All data need one shape. {name} of the first data has shape {shape}; {name} of these has "
                f"{own_shape}. Pad or crop the data."
            )
        if own_dtype != dtype:
            raise InputError(
                f"All data need one type. {name} of the first data is {_name(dtype)}; {name} of these is "
                f"{_name(own_dtype)}, because its values need it. Give all data as {_name(own_dtype)}."
            )


def form_text(batch: Batch) -> str:
    """Return the names, types and shapes of the fields of a datum as text, for a checksum.

    Args:
        batch: a datum.
    """
    forms = {name: _form(value) for name, value in batch.items()}
    return ";".join(f"{name}:{_name(kind)}:{shape}" for name, (shape, kind) in forms.items())


def _form(value: Any) -> tuple[tuple[int, ...], Any]:
    """Return shape and type of one datum; the class of a value that is not a tensor."""
    return ((), type(value)) if is_structure(value) else (tuple(value.shape[1:]), value.dtype)


def _name(kind: Any) -> str:
    return str(kind).removeprefix("torch.") if isinstance(kind, torch.dtype) else str(kind.__name__)
