"""The lock of one cell: only one process runs it, even if several machines run cells of a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pvae.comparison.base import Cell
from pvae.errors import InputError
from pvae.locks import is_written_now, names_this_process, remove_lock, sole_writer

__all__ = ["is_running", "release_cell", "require_own_lock", "sole_runner"]


def _lock_folder(cell: Cell) -> Path:
    """Return the folder with the lock, next to the run folder; `pvae.fit` locks the run folder itself."""
    return cell.folder.with_name(f"{cell.folder.name}.lock")


@contextmanager
def sole_runner(cell: Cell) -> Iterator[None]:
    """Run a block as the only process that works on a cell.

    Args:
        cell: the cell.

    Raises:
        InputError: if another process works on it.
    """
    folder = _lock_folder(cell)
    try:
        with sole_writer(folder):
            yield
    finally:
        with suppress(OSError):  # the folder of a killed process may still exist
            folder.rmdir()


def is_running(cell: Cell) -> bool:
    """Return whether a process works on a cell. A process on another computer counts even if it was killed."""
    return is_written_now(_lock_folder(cell))


def require_own_lock(cell: Cell) -> None:
    """Raise InputError if another process has taken over the cell, because it assumed that this process has ended."""
    if not names_this_process(_lock_folder(cell)):
        raise InputError(
            f"{cell.label} is run by another process now, which assumed that this one has ended. Nothing is lost."
        )


def release_cell(cell: Cell) -> None:
    """Remove the locks of a cell if its process has ended, for example because its machine failed."""
    for folder in (cell.folder, _lock_folder(cell)):
        remove_lock(folder)
    with suppress(OSError):
        _lock_folder(cell).rmdir()
