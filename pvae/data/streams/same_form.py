"""The check that all data that are read have the fields, shapes and types of the first ones."""

from __future__ import annotations

from typing import TypeAlias

import torch

from pvae.batch import Batch
from pvae.errors import InputError

__all__ = ["Forms", "check_agreement"]

#: The shape of a datum and the type of each field.
Forms: TypeAlias = dict[str, tuple[tuple[int, ...], torch.dtype]]


def check_agreement(batch: Batch, first: Forms) -> None:
    """Check that data have the fields, shapes and types of the data that were read first.

    Args:
        batch: the data.
        first: the form of the data that were read first; empty before, and then filled.

    Raises:
        InputError: if they differ.
    """
    if not first:
        first.update({name: (tuple(tensor.shape[1:]), tensor.dtype) for name, tensor in batch.items()})
    if first.keys() != set(batch.names):
        raise InputError(
            f"All data need the same fields. The first data have {', '.join(first)}; these have "
            f"{', '.join(batch.names)}. Return the same fields for each datum."
        )
    for name, tensor in batch.items():
        shape, dtype = first[name]
        if tuple(tensor.shape[1:]) != shape:
            raise InputError(
                f"All data need one shape. {name} of the first data has shape {shape}, of these "
                f"{tuple(tensor.shape[1:])}. Pad or crop the data."
            )
        if tensor.dtype != dtype:
            raise InputError(
                f"All data need one type. {name} of the first data is {_name(dtype)}, of these {_name(tensor.dtype)}, "
                f"because its values need it. Give all data as {_name(tensor.dtype)}."
            )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
