"""Read files of arrays: ``.npz``, ``.npy`` and IDX. Nothing is unpickled."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from pvae.data.file_limits import GZIP, decompress, require_content, size_of
from pvae.errors import InputError
from pvae.outside_files import read_limited, read_start

__all__ = [
    "DAMAGED",
    "parse_idx",
    "read_bytes",
    "read_idx",
    "read_npy",
    "read_npz",
    "require_npy",
    "require_npz",
    "unreadable",
]

# The errors of zipfile, zlib and NumPy for damaged files; RuntimeError is for unknown versions and encryption.
DAMAGED = (
    EOFError, KeyError, MemoryError, OSError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_LONGEST_IDX_HEADER = 4 + 4 * 255


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if the content is gzip, for any name of the file.

    Raises:
        InputError: if the file is missing, is not a regular file, has too much content for the memory, or its
            compressed content is truncated or damaged.
    """
    size = size_of(path)
    if read_start(path, 2) != GZIP:
        require_content(path, size)
        return read_limited(path, size)
    try:
        return decompress(path)
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{path} is a damaged or truncated gzip file ({error}). Copy or fetch it again.") from error


def read_idx(path: Path) -> np.ndarray:
    """Return the array of an IDX file (the format of MNIST), gzip or raw.

    Raises:
        InputError: if the file does not start like an IDX file, or its length does not match its header.
    """
    size = size_of(path)
    start = read_start(path, _LONGEST_IDX_HEADER)
    if start[:2] != GZIP:
        _idx_header(start, size, str(path))
    return parse_idx(read_bytes(path), str(path))


def parse_idx(content: bytes, name: str) -> np.ndarray:
    """Return the array in the bytes of an IDX file, in the shape that its header gives.

    Args:
        content: the decompressed bytes.
        name: name of the file, for messages.

    Raises:
        InputError: as `read_idx`.
    """
    dtype, shape = _idx_header(content[:_LONGEST_IDX_HEADER], len(content), name)
    return np.frombuffer(content, dtype, offset=4 + 4 * len(shape)).reshape(shape)


def _idx_header(start: bytes, size: int, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the type and the shape of the array of an IDX file of `size` bytes; raise InputError if they differ."""
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _IDX_DTYPES:
        raise InputError(f"{name} is no IDX file: it needs to begin with bytes such as 00 00 08 03, {_got(start)}.")
    dtype, dimensions = np.dtype(_IDX_DTYPES[start[2]]), start[3]
    end = 4 + 4 * dimensions
    shape = tuple(int(length) for length in np.frombuffer(start[4:end], ">u4", count=(len(start[4:end])) // 4))
    needed = end + math.prod(shape) * dtype.itemsize
    if len(shape) != dimensions or size != needed:
        raise InputError(f"{name} is truncated or damaged: its header needs {needed} bytes; it has {size}.")
    return dtype, shape


def read_npy(path: Path) -> np.ndarray:
    """Return the array of a ``.npy`` file, in its shape in the file.

    Raises:
        InputError: if it is not a ``.npy`` file, is damaged, is larger than the free memory, or holds Python objects.
    """
    require_npy(path)
    try:
        require_content(path, size_of(path))
        return np.asarray(np.load(path, allow_pickle=False))
    except InputError:
        raise
    except DAMAGED as error:
        raise unreadable(str(path), error) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by name, in their shapes in the file.

    Raises:
        InputError: if it is not a ``.npz`` file, is damaged, has too much content for the memory, or one of its arrays
            holds Python objects.
    """
    require_npz(path)
    name = ""
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                arrays[name] = np.asarray(archive[name])
    except DAMAGED as error:
        raise unreadable(f"{name} in {path}" if name else str(path), error) from error
    return arrays


def require_npy(path: Path) -> None:
    """Raise InputError if a file is missing, does not start like a ``.npy`` file, or is shorter than its header says.

    Args:
        path: the file; only its header is read.

    Raises:
        InputError: in these cases.
    """
    size = size_of(path)
    _check_magic(path, b"\x93NUMPY", "NumPy array file (.npy)")
    try:
        with path.open("rb") as file:
            _require_array(file, size)
    except DAMAGED as error:
        raise unreadable(str(path), error) from error


def require_npz(path: Path) -> None:
    """Refuse a file that is missing, is not a ``.npz`` file, or has more content than is likely or fits into memory.

    Args:
        path: the file; only its table of contents and the headers of its arrays are read.

    Raises:
        InputError: in these cases.
    """
    size_of(path)
    _check_magic(path, b"PK", "NumPy archive (.npz)")
    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            require_content(path, sum(entry.file_size for entry in entries))
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                with archive.open(entry) as file:
                    _require_array(file, entry.file_size)
    except InputError:
        raise
    except DAMAGED as error:
        raise unreadable(f"{name} in {path}" if name else str(path), error) from error


def _require_array(file: IO[bytes], size: int) -> None:
    """Raise ValueError if the header of an array of NumPy needs more bytes than there are; other content passes.

    Args:
        file: the stream, at the beginning of the array.
        size: the number of bytes in the stream.
    """
    form = np.lib.format
    if file.read(len(form.MAGIC_PREFIX)) != form.MAGIC_PREFIX:
        return
    # a header of version 3 is like version 2, but in UTF-8
    read = form.read_array_header_1_0 if tuple(file.read(2)) == (1, 0) else form.read_array_header_2_0
    shape, _, dtype = read(file)
    needed = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and (min(shape, default=0) < 0 or needed > size):
        raise ValueError(f"its header needs {needed} bytes; it has {size}")


def _check_magic(path: Path, magic: bytes, kind: str) -> None:
    start = read_start(path, 8)
    if not start.startswith(magic):
        raise InputError(f"{path} is no {kind}: it needs to begin with {magic!r}, {_got(start)}.")


def _got(content: bytes) -> str:
    return f"got {content[:4].hex(' ')}" if content else "and it is empty"


def unreadable(what: str, error: Exception) -> InputError:
    """Return the error for a file of arrays that is damaged or holds Python objects.

    Args:
        what: the file, and the array in it.
        error: the error of NumPy.
    """
    if "allow_pickle" in str(error):
        return InputError(f"{what} has Python objects, which pvae does not unpickle. Save numbers instead.")
    return InputError(f"{what} is truncated or damaged ({' '.join(str(error).split()) or type(error).__name__}).")
