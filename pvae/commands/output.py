"""Output of the commands: text tables for people, one JSON object for programs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import click

from pvae.json_values import json_value
from pvae.logs import say
from pvae.names import printable

__all__ = ["format_rows", "format_table", "json_text", "print_json", "print_reading", "print_status", "print_text"]

_LOG = logging.getLogger(__name__)


def print_status(message: str) -> None:
    """Show a line of progress on standard error, so that standard output holds the result only."""
    say(_LOG, printable(message))


def print_reading(splits: Any) -> None:
    """Print how the data of a file were read, in one line on standard error.

    Args:
        splits: the data.
    """
    if splits.schema.account:
        print_status(_on_one_line(f"{splits.name}: {splits.schema.account}"))


def json_text(content: Mapping[str, Any]) -> str:
    """Return one JSON object. Numbers that are not finite become null, because JSON cannot hold them."""
    return json.dumps(json_value(content), allow_nan=False)


def print_text(text: str) -> None:
    """Print text on standard output; control characters, which names of a file may have, are shown and do nothing."""
    click.echo(printable(text))


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    click.echo(json_text(content))


def format_rows(rows: Mapping[str, Any]) -> str:
    """Return one line for each name and its value, with the values aligned.

    >>> print(format_rows({"data": "digits", "loss": 27.2}))
    data  digits
    loss  27.2
    """
    width = max(map(len, rows), default=0)
    return "\n".join(_on_one_line(f"{name:<{width}}  {value}") for name, value in rows.items())


_STARTS_OF_NUMBERS = frozenset(["", *"0123456789+-."])


def format_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table as text, with columns of numbers aligned right and the others aligned left.

    >>> print(format_table(["name", "loss"], [["elbo", 27.25], ["iwae", 9.5]]))
    name   loss
    elbo  27.25
    iwae    9.5

    Args:
        header: the names of the columns.
        rows: the cells of each row, as many as columns.
    """
    cells = [[_on_one_line(str(cell)) for cell in row] for row in [header, *rows]]
    columns = [_aligned(column) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _aligned(column: Sequence[str]) -> list[str]:
    """Return a heading and its cells at one width; cells that start as numbers do, or are empty, are aligned right."""
    width = max(map(len, column))
    is_numeric = all(cell[:1] in _STARTS_OF_NUMBERS for cell in column[1:])
    return [cell.rjust(width) if is_numeric else cell.ljust(width) for cell in column]


def _on_one_line(text: str) -> str:
    """Return a text without line breaks: a name with one would look like two lines of a table."""
    return printable(text).replace("\n", "\\n")
