"""Limits for files of data: they are regular files, and their content fits their size and the free memory."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

from pvae.data.raw_data import require_memory
from pvae.errors import InputError
from pvae.memory import format_bytes
from pvae.outside_files import require_regular

__all__ = ["GZIP", "decompress", "missing_file", "require_content", "size_of"]

#: The first bytes of a gzip file.
GZIP = b"\x1f\x8b"
_MOST_EXPANSION = 200  # the largest ratio of content to file size; constants have ratios of 230 to 1000 in a zip file
_SMALL = 100_000_000  # bytes of content that are always accepted
_BLOCK = 1 << 22


def missing_file(path: Path) -> InputError:
    """Return the error for a file that does not exist."""
    return InputError(f"There is no file {path}. Check the path, or give the name of a known data set.")


def size_of(path: Path) -> int:
    """Return the size of a file of data, in bytes.

    Raises:
        InputError: if it is missing, or is not a regular file.
    """
    if not path.exists():
        raise missing_file(path)
    return require_regular(path)


def require_content(path: Path, content: int) -> None:
    """Raise InputError for a file with more content than is likely or fits into memory, before reading the content.

    Args:
        path: the file.
        content: the bytes of the arrays in the file, decompressed.

    Raises:
        InputError: if the content is more than 100 MB and more than 200 times the size of the file, or more than the
            free memory.
    """
    if content > max(_SMALL, _MOST_EXPANSION * size_of(path)):
        raise _unlikely(path, content)
    require_memory(content, f"The content of {path}", "Take fewer rows or columns.")


def _unlikely(path: Path, content: int) -> InputError:
    return InputError(
        f"{path} has {format_bytes(size_of(path))}, but its content needs {format_bytes(content)} or more: over "
        f"{_MOST_EXPANSION} times as much, as in a file that is damaged or meant to fill the memory. If it is right, "
        "save it without compression."
    )


def decompress(path: Path) -> bytes:
    """Return the content of a gzip file.

    Raises:
        InputError: as `require_content`.
        EOFError, OSError, zlib.error: if the file is damaged.
    """
    content = io.BytesIO()
    with path.open("rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
        while block := unpacked.read(_BLOCK):
            content.write(block)
            if content.tell() > max(_SMALL, _MOST_EXPANSION * file.tell()):
                raise _unlikely(path, content.tell())
            require_memory(len(block), f"The content of {path}", "Take fewer rows or columns.")
    return content.getvalue()
