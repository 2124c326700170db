"""Files and folders that are replaced in one step: a reader sees the old content or the new, never a part."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "UNFINISHED",
    "is_disk_full",
    "move_into_place",
    "replace_file",
    "replace_folder",
    "require_space",
    "sync",
    "write_bytes",
    "write_text",
]

#: suffix of a file or folder that is being written
UNFINISHED = ".tmp"


def is_disk_full(error: BaseException) -> bool:
    """Return whether an error says that the disk is full, a quota is used up, or a file has its largest size."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def require_space(path: Path, size: int) -> None:
    """Reserve disk space by writing a file of this size.

    Use it before a library writes the file, if the library does not report a full disk.

    Args:
        path: the file.
        size: the bytes that the library will write.

    Raises:
        OSError: if the disk is full.
    """
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except (AttributeError, OSError) as error:  # not every operating system or file system has this call
            if is_disk_full(error):
                raise


def sync(path: Path) -> None:
    """Write the content of a file, or the list of entries of a folder, to the disk before returning."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move_into_place(source: Path, target: Path) -> None:
    """Move a complete file to its final name on the same file system; a file of that name is replaced.

    Args:
        source: the file; its content is written to the disk before it is moved.
        target: its final path.
    """
    sync(source)
    os.replace(source, target)
    sync(target.parent)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` for the block to write; then move that file to `path`.

    If the block raises an error, the temporary file is removed, and the old file at `path` does not change.

    Args:
        path: the final path; its folder exists.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        unfinished.unlink(missing_ok=True)  # the path may be a link to a file that is not from pvae
        yield unfinished
        move_into_place(unfinished, path)
    except OSError as error:
        # the error of a write to an open file, such as on a full disk, does not name the file
        if error.filename in (None, str(unfinished)):
            error.filename = str(path)
        raise
    finally:
        # after the move, the temporary file does not exist
        unfinished.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file by these bytes, or leave it unchanged if the write fails.

    Args:
        path: the file.
        content: the new content.
    """
    with replace_file(path) as unfinished:
        unfinished.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Replace a file by this text in UTF-8, or leave it unchanged if the write fails.

    Args:
        path: the file.
        text: the new content.
    """
    write_bytes(path, text.encode())


@contextmanager
def replace_folder(path: Path, previous: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path` for the block to fill; then move it to `path`.

    The old folder at `path` moves to `previous`, which is replaced. If the process is killed between the two moves,
    `previous` is complete and `path` is missing. If the block raises an error, the temporary folder is removed, and
    the old folder does not change.

    Args:
        path: the final path; the folders above it are made.
        previous: the path that the old folder moves to.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    _remove(unfinished)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        sync(unfinished)
        if path.exists():
            _remove(previous)
            os.replace(path, previous)
        os.replace(unfinished, path)
    finally:
        # after the move, the temporary folder does not exist
        _remove(unfinished)
    sync(path.parent)


def _remove(path: Path) -> None:
    """Remove a folder if there is one. If it is a link, only the link is removed, not its target."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
