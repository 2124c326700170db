"""`RawData`: arrays by name as read from a file or an object, with their schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pvae.data.schema import Schema
from pvae.errors import InputError
from pvae.memory import format_bytes, free_bytes

__all__ = ["IN_MEMORY", "RawData", "require_memory"]

IN_MEMORY = "the data"
"""The name of data that come from an object and not from a file."""


@dataclass(frozen=True, eq=False)
class RawData:
    """Data before their labels are numbered and their missing values are masked.

    Attributes:
        name: the name of the data, for messages and records.
        fields: arrays by name.
        schema: the names of the columns, and how the data were read.
        notes: notes on what was inferred and may be wrong.
        row_names: the name and the values, (rows,), of the first column that names the rows of a table, or None.
    """

    name: str
    fields: dict[str, Any]
    schema: Schema = field(default_factory=Schema)
    notes: tuple[str, ...] = ()
    row_names: tuple[str, np.ndarray] | None = None


def require_memory(needed: int, what: str, advice: str) -> None:
    """Check that memory for data is free, before it is taken.

    Args:
        needed: the number of bytes.
        what: the object that needs the memory.
        advice: what to do if the memory is not free.

    Raises:
        InputError: if fewer bytes are free.
    """
    free = free_bytes(torch.device("cpu"))
    if free is not None and needed > free:
        raise InputError(f"{what} needs {format_bytes(needed)} of memory, and {format_bytes(free)} are free. {advice}")
