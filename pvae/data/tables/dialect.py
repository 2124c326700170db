"""The separator of the cells of a text table, its decimal sign, and whether its first line has names."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pvae.data.tables.table_options import MISSING_WORDS, TableOptions
from pvae.data.tables.text_lines import TextLines
from pvae.errors import InputError

__all__ = ["SEPARATOR_NAMES", "Dialect", "find_dialect", "is_number"]

SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks", "": "nothing"}
_SIGNS = {".": "point", ",": "comma"}
#: The number of rows that are examined.
_SAMPLE = 200
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)
_NUMBER_WITH_COMMA = re.compile(r"[+-]?(\d+,?\d*|,\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Dialect:
    """The format of a text table.

    Attributes:
        separator: the character between cells; a space means any white space, and "" a table of one column.
        decimal: the decimal sign, ``"."`` or ``","``.
        names: the names of the columns; None if the first line is a datum.
        header_lines: the number of lines with names, 0 or 1.
        notes: notes on what was inferred and may be wrong.
    """

    separator: str
    decimal: str
    names: tuple[str, ...] | None
    header_lines: int
    notes: tuple[str, ...] = ()


def is_number(cell: str, decimal: str = ".") -> bool:
    """Return whether a cell is a number without underscores, thousands separators and units."""
    pattern = _NUMBER_WITH_COMMA if decimal == "," else _NUMBER
    return pattern.fullmatch(cell.strip()) is not None


def find_dialect(lines: TextLines, options: TableOptions) -> Dialect:
    """Return the format of a text table.

    Args:
        lines: the lines of the table.
        options: the options that the user gave.

    Raises:
        InputError: if a given separator leaves one column although another one would not, or if the first line may be a
            datum or names.
    """
    separator, decimal = _separator(lines, options)
    rows = [cells for _, cells in lines.records(separator, _SAMPLE)]
    names: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    if options.header is not None:
        names = tuple(rows[0]) if options.header else None
    else:
        names, notes = _names(lines, rows, separator, decimal)
    notes = (*notes, *_notes_of_thousands(rows[0 if names is None else 1 :], separator, decimal))
    commented = None if options.header is not None or names is not None else _names_in_comment(lines, rows, separator)
    if commented is not None:
        return Dialect(separator, decimal, commented, 0, ("the comment above the data names the columns", *notes))
    return Dialect(separator, decimal, names, 0 if names is None else 1, notes)


def _notes_of_thousands(rows: Sequence[Sequence[str]], separator: str, decimal: str) -> tuple[str, ...]:
    """Return a note if all decimal signs of a column may separate thousands, such as 1.000 or 1,000."""
    if separator == "," or (separator != ";" and decimal == "."):
        return ()
    thousands = re.compile(rf"[+-]?[1-9]\d{{0,2}}{re.escape(decimal)}\d{{3}}")
    for cells in zip(*rows, strict=False):
        signs = [cell for cell in cells if decimal in cell]
        if signs and all(map(thousands.fullmatch, signs)):
            value = float(signs[0].replace(decimal, "."))
            return (f"{signs[0]} is read as {value:g}; remove the {_SIGNS[decimal]} if it separates thousands",)
    return ()


def _separator(lines: TextLines, options: TableOptions) -> tuple[str, str]:
    """Return the separator and the decimal sign of a table."""
    candidates = [",", ";", "\t", "|", " "]
    scores = {each: _score(lines, each) for each in candidates}
    if scores["\t"][0] > 0:
        scores[" "] = (0.0, ".", 1)  # between tabs, blanks are part of the cells
    best = max(candidates, key=lambda each: scores[each][0])
    if options.separator is not None:
        rows = [cells for _, cells in lines.records(options.separator, _SAMPLE)]
        if max(map(len, rows)) == 1 and scores[best][0] > 0:
            raise InputError(
                f"{lines.name}: the separator {options.separator!r} gives one column, but {best!r} would give "
                f"{scores[best][2]}. Leave the separator out, or give the right one."
            )
        return options.separator, "." if options.separator == "," else _decimal(rows)[0]
    if scores[best][0] > 0:
        return best, scores[best][1]
    # No separator gives rows of equal length, so the one that splits most is used, and the message can name the line.
    fallback = next((each for each in candidates if scores[each][2] > 1 and (each != " " or _has_numbers(lines))), "")
    rows = [cells for _, cells in lines.records(fallback, _SAMPLE)]
    return fallback, "." if fallback == "," else _decimal(rows)[0] if fallback else "."


def _has_numbers(lines: TextLines) -> bool:
    """Return whether most cells between blanks are numbers."""
    return _share([cells for _, cells in lines.records(" ", _SAMPLE)], ".") > 0.5


def _score(lines: TextLines, separator: str) -> tuple[float, str, int]:
    """Return how well a separator fits (0 if not at all), the decimal sign with it, and the number of columns."""
    rows = [cells for _, cells in lines.records(separator, _SAMPLE)]
    lengths = [len(cells) for cells in rows]
    widest = max(lengths, default=0)
    body = lengths[1:] or lengths
    even = len(set(body)) == 1 and body[0] > 1 and lengths[0] in (body[0], max(2, body[0] - 1))
    if not even:
        return 0.0, ".", widest
    decimal, share = (".", _share(rows, ".")) if separator == "," else _decimal(rows)
    return 1e-3 + share, decimal, widest


def _decimal(rows: Sequence[Sequence[str]]) -> tuple[str, float]:
    """Return the decimal sign that makes more cells numbers, and the share of cells that are numbers with it."""
    point, comma = _share(rows, "."), _share(rows, ",")
    return (",", comma) if comma > point else (".", point)


def _share(rows: Sequence[Sequence[str]], decimal: str) -> float:
    cells = [cell for row in (rows[1:] or rows) for cell in row if cell not in MISSING_WORDS]
    return sum(is_number(cell, decimal) for cell in cells) / max(1, len(cells))


def _names(
    lines: TextLines, rows: Sequence[Sequence[str]], separator: str, decimal: str
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the names in the first line, or None if it is a datum; and notes."""
    first, others = rows[0], rows[1:]
    kinds = [_kind(cell, decimal) for cell in first]
    if "number" not in kinds:
        is_header = "text" in kinds
        return (tuple(first) if is_header else None), ()
    if "text" not in kinds:
        return _names_of_numbers(lines, first, others, decimal)
    # A text above a column of numbers is a name. If every text is above text, the line may be a datum.
    width = min(map(len, others), default=0)
    shift = 1 if width == len(first) + 1 else 0
    for column, kind in enumerate(kinds):
        cells = [row[column + shift] for row in others if column + shift < len(row)]
        known = [cell for cell in cells if cell not in MISSING_WORDS]
        if kind == "text" and known and all(_is_value(cell, decimal) for cell in known):
            return tuple(first), ()
    raise _ask(lines, first, "has text where the lines below have text, and numbers too")


def _names_of_numbers(
    lines: TextLines, first: Sequence[str], others: Sequence[Sequence[str]], decimal: str
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the names in a first line of numbers, or None if it is a datum.

    A line such as 0,1,2 above numbers with decimals has names, as written by pandas. If the other lines have whole
    numbers too, the line may be names or a datum.
    """
    unnamed = first[0] == ""
    cells = first[1:] if unnamed else first
    if not cells or not all(_WHOLE.fullmatch(cell) for cell in cells):
        return None, ()
    values = [int(cell) for cell in cells]
    counts = values == list(range(values[0], values[0] + len(values))) and values[0] in (0, 1)
    whole_lines = any(all(_WHOLE.fullmatch(cell) or cell in MISSING_WORDS for cell in row[unnamed:]) for row in others)
    rises = all(a < b for a, b in itertools.pairwise(values))
    if unnamed and counts:
        return tuple(first), ("the first line counts the columns and is read as their names",)
    if not whole_lines and others and rises:
        if counts and len(values) > 1:
            return tuple(first), ("the first line counts the columns and is read as their names",)
        raise _ask(lines, first, "has whole numbers, and no other line has only whole numbers")
    if whole_lines and counts and values[0] == 0:
        raise _ask(lines, first, "counts from 0, as the names of columns without a name do")
    return None, ()


def _ask(lines: TextLines, first: Sequence[str], reason: str) -> InputError:
    shown = ",".join(first)
    return InputError(
        f"{lines.name}, line {lines.numbers[0]}: {shown[:40] + ('...' if len(shown) > 40 else '')!r} may be the names "
        f"of the columns or a datum, because it {reason}. Set header='first' for names or header='none' for a datum "
        "(--header first, --header none)."
    )


def _kind(cell: str, decimal: str) -> str:
    return "empty" if not cell else "number" if _is_value(cell, decimal) else "text"


def _is_value(cell: str, decimal: str) -> bool:
    """Return whether a cell is a number, a truth value or a word for a missing value, and therefore not a name."""
    return is_number(cell, decimal) or cell in MISSING_WORDS or cell.lower() in ("true", "false")


def _names_in_comment(lines: TextLines, rows: Sequence[Sequence[str]], separator: str) -> tuple[str, ...] | None:
    """Return the names in the comment directly above the data, as written by NumPy; None if it has no names."""
    if not lines.comments:
        return None
    comment = lines.comments[-1]
    cells = comment.split() if separator == " " else next(csv.reader([comment], delimiter=separator or "\x1f"), [])
    names = tuple(cell.strip() for cell in cells)
    fits = len(names) == len(rows[0]) and len(names) > 1 and all(names) and len(set(names)) == len(names)
    return names if fits and not any(is_number(name) for name in names) else None
