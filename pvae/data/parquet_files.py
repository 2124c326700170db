"""Read Parquet files, after a check of the size of their content."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvae.data.file_limits import require_content
from pvae.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_parquet"]

_BYTES_OF_NUMBER = 8


def read_parquet(parquet: Any, path: Path) -> pd.DataFrame:
    """Return the table in a Parquet file.

    Args:
        parquet: the module ``pyarrow.parquet``.
        path: the file, a regular file.

    Raises:
        InputError: if it is damaged, or has more content than is likely or fits into memory.
    """
    try:
        claimed = parquet.read_metadata(path)
        size = _BYTES_OF_NUMBER * claimed.num_rows * claimed.num_columns
        require_content(path, size)
        for length in _lengths_of_texts(parquet, path):
            size += length
            require_content(path, size)
        return parquet.read_table(path).to_pandas(types_mapper=_nullable_types().get)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a Parquet file, or is damaged ({' '.join(str(error).split())[:120]})."
        ) from error


def _nullable_types() -> dict[Any, Any]:
    """Return the nullable types of pandas for whole numbers, by the types of Arrow."""
    import pandas as pd

    arrow = importlib.import_module("pyarrow")
    names = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    return {
        getattr(arrow, name)(): getattr(pd, name.replace("ui", "UI").replace("i", "I") + "Dtype")() for name in names
    }


def _lengths_of_texts(parquet: Any, path: Path) -> Iterator[int]:
    """Yield the bytes of the texts of each column of texts, counted in every row.

    A text that the file stores once may occur in many rows, and each row gets a copy of it. So the columns are read as
    positions in a list of different texts.
    """
    types, compute = map(importlib.import_module, ("pyarrow.types", "pyarrow.compute"))
    schema = parquet.read_schema(path)
    for number, name in enumerate(schema.names):
        kind = schema.field(number).type
        if not any(check(kind) for check in (types.is_string, types.is_large_string, types.is_binary)):
            continue
        column = parquet.read_table(path, columns=[name], read_dictionary=[name]).column(0)
        for chunk in column.chunks:
            if types.is_dictionary(chunk.type):
                lengths = compute.binary_length(chunk.dictionary).take(chunk.indices)
                yield compute.sum(lengths).as_py() or 0
