"""Draw a table as text."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from pvae.names import printable, short_label

__all__ = ["draw_text_table"]

_GAP = 2  # characters between two columns
_UNLIMITED_WIDTH = 400


def draw_text_table(
    columns: Sequence[Sequence[str]], lines: Sequence[str], width: int | None, *, terminal: bool
) -> str:
    """Return a table as text, with lines below it.

    Args:
        columns: the heading and the cells of each column; the first column has the names of the rows.
        lines: lines of any width below the table.
        width: number of characters in a line; a wider table is printed in parts. None for no limit.
        terminal: whether to draw rules and colours.
    """
    columns = [[short_label(cell) for cell in column] for column in columns]
    buffer = io.StringIO()
    console = Console(file=buffer, width=width or _UNLIMITED_WIDTH, force_terminal=terminal, highlight=False)
    for index, part in enumerate(_split_columns(columns, width)):
        if index and not terminal:  # on a terminal, a rule separates the parts
            console.print()
        console.print(_draw(part, terminal))
    for line in lines:
        console.print(Text(printable(line)), soft_wrap=True)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def _split_columns(columns: Sequence[Sequence[str]], width: int | None) -> list[list[Sequence[str]]]:
    """Return the columns in parts that fit into the width; each part begins with the names of the rows."""
    names, *value_columns = columns
    available = math.inf if width is None else width - max(map(len, names)) - _GAP
    parts = [[names]]
    used = 0
    for column in value_columns:
        size = max(map(len, column)) + _GAP
        if used + size > available and len(parts[-1]) > 1:
            parts.append([names])
            used = 0
        parts[-1].append(column)
        used += size
    return parts


def _draw(columns: Sequence[Sequence[str]], terminal: bool) -> RichTable:
    # With rules, rich adds one character to the gap between two columns.
    gap = _GAP - 1 if terminal else _GAP
    rules = box.SIMPLE_HEAD if terminal else None
    table = RichTable(box=rules, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(Text(column[0]), justify="right" if index else "left", no_wrap=True)
    for cells in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*map(Text, cells))
    return table
