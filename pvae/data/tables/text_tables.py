"""Read a text table with pandas: an error names the line of a row or cell that cannot be used."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pvae.data.readers import read_bytes
from pvae.data.tables.dialect import SEPARATOR_NAMES, Dialect, find_dialect, is_number
from pvae.data.tables.frame_columns import LARGEST_WHOLE
from pvae.data.tables.number_tables import read_number_table
from pvae.data.tables.table_options import MISSING_WORDS, TableOptions
from pvae.data.tables.text_lines import TextLines, find_sign, text_lines
from pvae.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TextTable", "read_text_table"]

#: The separator that pandas gets for a table of one column.
_NO_SEPARATOR = "\x1f"


@dataclass(frozen=True, eq=False)
class TextTable:
    """A text table as read.

    Attributes:
        frame: the cells; a column of numbers has numbers, with NaN for missing ones; any other column has text.
        has_names: whether the file names its columns.
        unnamed: the columns without a name in a file that names the others.
        account: a text on how the file was read.
        notes: notes on what was inferred and may be wrong.
        lines: returns the lines, which know the place of each cell.
        dialect: the format of the file.
    """

    frame: pd.DataFrame
    has_names: bool
    unnamed: tuple[str, ...]
    account: str
    notes: tuple[str, ...]
    lines: Callable[[], TextLines]
    dialect: Dialect

    def place(self, row: int, column: str) -> tuple[str, str]:
        """Return a description of the place of a cell, and its text.

        Args:
            row: the number of the row, from 0 on.
            column: the name of the column.
        """
        position = list(self.frame.columns).index(column)
        lines = self.lines()
        records = lines.records(self.dialect.separator)
        for number, (line, cells) in enumerate(records):
            if number == row + self.dialect.header_lines:
                return f"{lines.name}, line {line}, column {column!r}", cells[position]
        raise IndexError(row)


def read_text_table(path: Path, options: TableOptions) -> TextTable:
    """Return the table in a text file.

    Args:
        path: the file.
        options: the options that the user gave.

    Raises:
        InputError: if it is not a text table, or a row has another number of cells than the others.
    """
    numbers = read_number_table(path, options)
    if numbers is not None:
        names = list(numbers.dialect.names or [""] * numbers.frame.shape[1])
        return _text_table(numbers.frame, names, numbers.first_lines, numbers.dialect, numbers.dialect.notes, path)
    lines = text_lines(str(path), read_bytes(path))
    if not len(lines):
        raise InputError(f"{path} needs rows of numbers; it has none.")
    dialect = find_dialect(lines, options)
    names, width, notes = _columns(lines, dialect)
    if len(lines) <= dialect.header_lines:
        raise InputError(f"{path} needs rows of numbers; it has none.")
    frame = _read(lines, dialect, names, width, options)
    if names[-1] == "" and len(names) > 1 and _is_empty(frame.iloc[:, -1]):
        # every row ends with a separator
        frame, names = frame.iloc[:, :-1], names[:-1]
    return _text_table(frame, names, lines, dialect, notes)


def _text_table(
    frame: pd.DataFrame,
    names: list[str],
    lines: TextLines,
    dialect: Dialect,
    notes: tuple[str, ...],
    path: Path | None = None,
) -> TextTable:
    """Return the table with the names of its columns; if `lines` are only the first ones, `path` is the whole file."""
    frame.columns = _checked_names(lines, dialect, names)
    has_names = dialect.names is not None
    unnamed = [full for full, name in zip(frame.columns, names, strict=True) if not name] if has_names else []

    def all_lines() -> TextLines:
        return lines if path is None else text_lines(str(path), read_bytes(path))

    return TextTable(frame, has_names, tuple(unnamed), _account(lines, dialect), notes, all_lines, dialect)


def _columns(lines: TextLines, dialect: Dialect) -> tuple[list[str], int, tuple[str, ...]]:
    """Return a name for each column, "" for one without, and the number of columns in each row.

    Raises:
        InputError: if rows differ in length.
    """
    _refuse_unit_separators(lines, dialect)
    counts, positions = _cell_counts(lines, dialect)
    width = int(counts[0]) if len(counts) else 0
    names = list(dialect.names) if dialect.names is not None else [""] * width
    needed = len(names)
    if dialect.names is not None and len(counts) and (counts == needed + 1).all():
        # R writes no name above the names of the rows; other programs end each row with a separator.
        ends_empty = all(not cells[-1] for _, cells in list(lines.records(dialect.separator, 50))[1:])
        if ends_empty or needed > 1:  # if one name is above two cells, they may be one number with a decimal comma
            names, needed = ([*names, ""] if ends_empty else ["", *names]), needed + 1
    uneven = np.flatnonzero(counts != needed)
    if len(uneven):
        line, came = lines.numbers[positions[uneven[0]]], counts[uneven[0]]
        raise InputError(
            f"{lines.name}, line {line}: {needed} columns needed, got {came}. The cells seem to be separated by "
            f"{SEPARATOR_NAMES.get(dialect.separator, dialect.separator)}; give another separator if that is wrong."
        )
    return names, needed, dialect.notes


def _refuse_unit_separators(lines: TextLines, dialect: Dialect) -> None:
    """Raise InputError for a table of one column that contains the placeholder separator for pandas."""
    position = lines.content.find(_NO_SEPARATOR.encode()) if not dialect.separator else -1
    if position >= 0:
        line = lines.numbers[np.searchsorted(lines.starts, position, side="right") - 1]
        raise InputError(
            f"{lines.name}, line {line}: numbers or text needed; there is the control character 0x1f. Remove it."
        )


def _cell_counts(lines: TextLines, dialect: Dialect) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of cells of each row after the header, and the position of its first line."""
    first = dialect.header_lines
    if lines.has_quotes or dialect.separator == " ":
        records = list(lines.records(dialect.separator))[first:]
        positions = np.searchsorted(lines.numbers, [line for line, _ in records])
        return np.array([len(cells) for _, cells in records], dtype=np.int64), positions
    if not dialect.separator:
        return np.ones(len(lines) - first, np.int64), np.arange(first, len(lines))
    separators = find_sign(lines.content, dialect.separator)
    rows, cells = len(lines), len(separators) // len(lines)
    if cells and len(separators) == rows * cells:
        # If the first and the last separator of each row are in its line, each row has the same number.
        by_row, ends = separators.reshape(rows, cells), np.append(lines.starts[1:], len(lines.content))
        if bool((by_row[:, 0] >= lines.starts).all() and (by_row[:, -1] < ends).all()):
            return np.full(rows - first, cells + 1), np.arange(first, rows)
    bounds = np.searchsorted(separators, np.append(lines.starts, len(lines.content)))
    return (np.diff(bounds) + 1)[first:], np.arange(first, len(lines))


def _read(lines: TextLines, dialect: Dialect, names: list[str], width: int, options: TableOptions) -> pd.DataFrame:
    """Return the cells after the header, by position: numbers where a column has only numbers, else text."""
    first = _first_line(lines, dialect)
    words = options.missing_words if options.missing else MISSING_WORDS
    frame = _parse(lines.from_line(first), dialect, width, na_values=words)
    texts = [column for column in frame.columns if not _is_numeric(frame[column]) or _is_rounded(frame[column])]
    if texts:
        # read again as text, because pandas also replaces words for missing values in text
        written = _parse(lines.from_line(first), dialect, width, usecols=texts, dtype=object, na_filter=False)
        for column in texts:
            frame[column] = _numbers_or_text(written[column].to_numpy(), dialect, options)
    return frame


def _first_line(lines: TextLines, dialect: Dialect) -> int:
    """Return the position of the first line after the names, which take several lines if a name has a line end."""
    if not dialect.header_lines or not lines.has_quotes:
        return dialect.header_lines
    records = [number for number, _ in lines.records(dialect.separator, dialect.header_lines + 1)]
    return int(np.searchsorted(lines.numbers, records[-1])) if len(records) > dialect.header_lines else len(lines)


def _is_numeric(values: pd.Series) -> bool:
    return values.dtype.kind in "iufb"


def _is_rounded(values: pd.Series) -> bool:
    """Return whether pandas may have rounded whole numbers, because others of the column are missing."""
    return values.dtype.kind == "f" and values.isna().any() and bool((values.abs() >= LARGEST_WHOLE).any())


def _parse(stream: io.BytesIO, dialect: Dialect, width: int, **settings: object) -> pd.DataFrame:
    import pandas as pd
    from pandas.errors import DtypeWarning

    # Older versions of pandas read decimal numbers to the last bit only if they are told to; version 3 always does.
    precision = {"float_precision": "round_trip"} if int(pd.__version__.partition(".")[0]) < 3 else {}
    separator = r"\s+" if dialect.separator == " " else dialect.separator or _NO_SEPARATOR
    with warnings.catch_warnings():
        # If parts of a column differ in type, it is a column of text, which is read again.
        warnings.simplefilter("ignore", DtypeWarning)
        return pd.read_csv(
            stream, sep=separator, header=None, names=list(range(width)), decimal=dialect.decimal,
            keep_default_na=False, skipinitialspace=True,
            index_col=False, skip_blank_lines=True, **precision, **settings,
        )  # fmt: skip


def _numbers_or_text(cells: np.ndarray, dialect: Dialect, options: TableOptions) -> np.ndarray:
    """Return a column that pandas read as text: as numbers if all cells except missing ones are numbers, else as text.

    Words for True and False become 1 and 0. Missing cells of text are None.
    """
    stripped = np.array([cell.strip() for cell in cells], dtype=object)
    words = set(options.missing_words if options.missing else MISSING_WORDS)
    known = np.array([cell not in words for cell in stripped], dtype=bool)
    whole = _large_whole_numbers(stripped, known)
    if whole is not None:
        return whole
    if known.any() and all(is_number(cell, dialect.decimal) for cell in stripped[known]):
        numbers = np.full(len(cells), np.nan)
        numbers[known] = [float(cell.replace(dialect.decimal, ".")) for cell in stripped[known]]
        return numbers
    if known.any() and {cell.lower() for cell in stripped[known]} <= {"true", "false"}:
        return np.where(known, [cell.lower() == "true" for cell in stripped], np.nan)
    if not known.any():
        return np.full(len(cells), np.nan)
    # In text, NA or none may be a name, so only an empty cell and the words that the user gives are missing.
    missing = set(options.words or ()) | {""}
    return np.array([None if cell in missing else cell for cell in stripped], dtype=object)


def _large_whole_numbers(cells: np.ndarray, known: np.ndarray) -> np.ndarray | None:
    """Return whole numbers, None for a missing one, if one is too large for float64; None for all other cells."""
    if not known.any() or not all(re.fullmatch(r"[+-]?\d+", cell) for cell in cells[known]):
        return None
    numbers = [int(cell) if is_known else None for cell, is_known in zip(cells, known, strict=True)]
    is_large = max(abs(number) for number in numbers if number is not None) > LARGEST_WHOLE
    return np.array([*numbers, None], dtype=object)[:-1] if is_large else None


def _is_empty(values: pd.Series) -> bool:
    return bool(values.isna().all())


def _checked_names(lines: TextLines, dialect: Dialect, names: list[str]) -> list[str]:
    """Return the names of the columns; a column without a name gets its number as a name.

    Raises:
        InputError: if two columns have one name.
    """
    full = [name or f"column {number}" for number, name in enumerate(names, 1)]
    twice = sorted({name for name in full if full.count(name) > 1}) if len(set(full)) < len(full) else []
    if twice:
        raise InputError(f"{lines.name}: {full.count(twice[0])} columns are named {twice[0]!r}; rename all but one.")
    return full


def _account(lines: TextLines, dialect: Dialect) -> str:
    """Return a text on the format of the file."""
    name = SEPARATOR_NAMES.get(dialect.separator, repr(dialect.separator))
    parts = [f"separated by {name}" if dialect.separator else "one column"]
    if dialect.decimal == ",":
        parts.append("decimal commas")
    if lines.encoding != "utf-8":
        parts.append(lines.encoding.replace("latin", "Latin").replace("utf", "UTF"))
    if lines.comment_count:
        parts.append(f"{lines.comment_count} comment lines left out")
    if dialect.names is None:
        parts.append("no line of names")
    elif dialect.header_lines:
        parts.append(f"line {lines.numbers[0]} names the columns")
    return ", ".join(parts)
