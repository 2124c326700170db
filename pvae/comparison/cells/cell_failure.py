"""The reason why a single cell has failed, in a file next to the cell, which is read when results are collected."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from pvae.comparison.base import Cell
from pvae.errors import InputError
from pvae.files import write_text
from pvae.outside_files import check_form, read_json

__all__ = ["read_failure", "remove_failure", "write_failure"]

_MOST_BYTES = 2**16
_MOST_CHARACTERS = 2000  # of a reason
_FORM = {"failure": str, "host": str}


def _path(cell: Cell) -> Path:
    return cell.folder.with_name(f"{cell.folder.name}.failure.json")


def write_failure(cell: Cell, reason: str) -> None:
    """Write the reason why a cell has failed, and the name of the machine.

    Args:
        cell: the cell.
        reason: the reason in one line.
    """
    write_text(_path(cell), json.dumps({"failure": reason[:_MOST_CHARACTERS], "host": socket.gethostname()}))


def remove_failure(cell: Cell) -> None:
    """Remove the failure of an earlier attempt."""
    _path(cell).unlink(missing_ok=True)


def read_failure(cell: Cell) -> str:
    """Return the reason why a cell has failed in one line, or "" if no failure is recorded."""
    path = _path(cell)
    if not path.exists():
        return ""
    try:
        content = read_json(path, _MOST_BYTES)
        check_form(path, content, _FORM)
    except InputError as error:
        return f"it failed, and the reason cannot be read: {error}".rstrip(".")
    return f"{content['failure']} (on {content['host']})"
