"""Read a large table of numbers by pandas, without a copy of its text in Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pvae.data.tables.dialect import Dialect, find_dialect, is_number
from pvae.data.tables.table_options import TableOptions
from pvae.data.tables.text_lines import TextLines, text_lines
from pvae.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NumberTable", "read_number_table"]

_BLOCK = 1 << 20  # the bytes of a block, which fit into a cache
#: The first lines must be at least as many as `find_dialect` looks at, or all lines.
_FIRST_LINES = 250


@dataclass(frozen=True, eq=False)
class NumberTable:
    """A table of numbers without missing values.

    Attributes:
        frame: the cells, columns of numbers named 0, 1, ...
        dialect: the format of the table.
        first_lines: the first lines.
    """

    frame: pd.DataFrame
    dialect: Dialect
    first_lines: TextLines


def read_number_table(path: Path, options: TableOptions) -> NumberTable | None:
    """Return a table that has only numbers and no missing cell; None for any other file.

    None is also returned for files with quotes in their first lines. Blank lines are left out, as in the reader of all
    lines. pandas raises an error for a later row with too many cells, reads the last cell of a row with too few cells
    as missing, and reads a column with a comment or a letter as text.

    Args:
        path: the file.
        options: the options that the user gave.
    """
    first = _first_block(path)
    head = first[: first.rfind(b"\n") + 1]
    if not (head and _is_plain(head)) or (len(first) == _BLOCK and head.count(b"\n") < _FIRST_LINES):
        return None
    lines = text_lines(str(path), head)
    if not len(lines):
        return None
    try:
        dialect = find_dialect(lines, options)
    except InputError:  # the reader of all lines raises it again, with more details
        return None
    width = _width_of_numbers(lines, dialect)
    if not width:
        return None
    frame = _parse(path, dialect, width)
    return None if frame is None else NumberTable(frame, dialect, lines)


def _first_block(path: Path) -> bytes:
    """Return the beginning of a file; empty if it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(_BLOCK)
    except OSError:
        return b""


def _is_plain(head: bytes) -> bool:
    """Return whether the first lines have only ASCII, no quotes, returns or zeros."""
    return head.isascii() and not (b'"' in head or b"\r" in head or b"\0" in head)


def _width_of_numbers(lines: TextLines, dialect: Dialect) -> int:
    """Return the number of cells of a row if the first rows have only numbers, with a name for each cell or none."""
    if dialect.separator in ("", " "):
        return 0
    rows = [cells for _, cells in lines.records(dialect.separator, _FIRST_LINES)]
    data = rows[dialect.header_lines :]
    width = len(rows[0])
    named = dialect.names is None or len(dialect.names) == width
    # If the first rows had one cell too many, pandas would use their first cells as an index.
    even = all(len(cells) == width for cells in data)
    numbers = even and all(is_number(cell, dialect.decimal) for cells in data for cell in cells)
    return width if data and named and numbers else 0


def _parse(path: Path, dialect: Dialect, width: int) -> pd.DataFrame | None:
    """Return the cells of a file if they are numbers and none is missing; blanks before a number are ignored."""
    import pandas as pd

    # Older versions of pandas read decimal numbers exactly only with this option; version 3 always does.
    precision = {"float_precision": "round_trip"} if int(pd.__version__.partition(".")[0]) < 3 else {}
    header = 0 if dialect.header_lines else None
    try:
        frame = pd.read_csv(
            path, sep=dialect.separator, header=header, names=list(range(width)), decimal=dialect.decimal,
            compression=None, **precision,
        )  # fmt: skip
    except (OSError, ValueError):  # a row with too many cells
        return None
    columns = [frame[column].to_numpy() for column in frame.columns]
    # the minimum is NaN if a number is missing
    has_numbers = all(values.dtype.kind in "iufb" and not np.isnan(values.min()) for values in columns)
    return frame if has_numbers else None
