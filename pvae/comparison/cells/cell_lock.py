"""The lock of one cell: one process trains and evaluates it, also if several machines run cells of a comparison."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pvae.comparison.base import Cell
from pvae.errors import InputError
from pvae.locks import is_written_now, names_this_process, remove_lock, sole_writer

__all__ = ["is_running", "release_cell", "require_own_lock", "sole_runner"]


def _lock_folder(cell: Cell) -> Path:
    """Return the folder beside the run folder that holds the lock; `pvae.fit` locks the run folder itself."""
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
        with suppress(OSError):  # a folder that a killed process made is still there
            folder.rmdir()


def is_running(cell: Cell) -> bool:
    """Return whether a process works on a cell. On another computer, a process that was killed counts too."""
    return is_written_now(_lock_folder(cell))


def require_own_lock(cell: Cell) -> None:
    """Raise InputError if another process has taken over the cell, because this process was believed to be dead."""
    if not names_this_process(_lock_folder(cell)):
        raise InputError(f"{cell.label} is run by another process now, because this one was believed to be dead.")


def release_cell(cell: Cell) -> None:
    """Remove the locks of a cell of which the process has ended, for instance together with its machine."""
    for folder in (cell.folder, _lock_folder(cell)):
        remove_lock(folder)
    with suppress(OSError):
        _lock_folder(cell).rmdir()
