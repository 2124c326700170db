"""Read files of arrays: ``.npz``, ``.npy`` and IDX. Nothing is unpickled."""

from __future__ import annotations

import gzip
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from pvae.errors import InputError

__all__ = [
    "DAMAGED",
    "missing_file",
    "parse_idx",
    "read_bytes",
    "read_idx",
    "read_npy",
    "read_npz",
    "require_npy",
    "require_npz",
    "unreadable",
]

# What zipfile, zlib and NumPy raise for damaged files; RuntimeError is for unknown versions and encryption.
DAMAGED = (
    EOFError, KeyError, MemoryError, OSError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed if the content is gzip, whatever the name of the file is.

    Raises:
        InputError: if the file is missing or its compressed content is truncated or damaged.
    """
    raw = _raw(path)
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except DAMAGED as error:
        raise InputError(f"{path} is a damaged or truncated gzip file ({error}). Copy or fetch it again.") from error


def read_idx(path: Path) -> np.ndarray:
    """Return the array of an IDX file (the format of MNIST), gzip or raw.

    Raises:
        InputError: if the file does not begin as an IDX file does, or has another length than its header says.
    """
    return parse_idx(read_bytes(path), str(path))


def parse_idx(content: bytes, name: str) -> np.ndarray:
    """Return the array in the bytes of an IDX file, in the shape that its header gives.

    Args:
        content: the decompressed bytes.
        name: name of the file, for messages.

    Raises:
        InputError: as `read_idx`.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_DTYPES:
        raise InputError(f"{name} is no IDX file: it needs to begin with bytes such as 00 00 08 03, {_got(content)}.")
    dtype, dimensions = np.dtype(_IDX_DTYPES[content[2]]), content[3]
    start = 4 + 4 * dimensions
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4", count=(len(content[4:start])) // 4))
    needed = start + math.prod(shape) * dtype.itemsize
    if len(shape) != dimensions or len(content) != needed:
        raise InputError(f"{name} is truncated or damaged: its header needs {needed} bytes, it has {len(content)}.")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def read_npy(path: Path) -> np.ndarray:
    """Return the array of a ``.npy`` file, in its shape in the file.

    Raises:
        InputError: if it is no ``.npy`` file, is damaged, or holds Python objects.
    """
    require_npy(path)
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except DAMAGED as error:
        raise unreadable(str(path), error) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by name, in their shapes in the file.

    Raises:
        InputError: if it is no ``.npz`` file, is damaged, or one of its arrays holds Python objects.
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
    """Raise InputError if a file is missing or does not begin as a ``.npy`` file does."""
    _check_magic(path, b"\x93NUMPY", "NumPy array file (.npy)")


def require_npz(path: Path) -> None:
    """Raise InputError if a file is missing or does not begin as an ``.npz`` file does."""
    _check_magic(path, b"PK", "NumPy archive (.npz)")


def _raw(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise missing_file(path) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error


def missing_file(path: Path) -> InputError:
    """Return the error for a file that does not exist."""
    return InputError(f"There is no file {path}. Check the path, or give the name of a known data set.")


def _check_magic(path: Path, magic: bytes, kind: str) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        start = _raw(path)[:8]
    if not start.startswith(magic):
        raise InputError(f"{path} is no {kind}: it needs to begin with {magic!r}, {_got(start)}.")


def _got(content: bytes) -> str:
    return f"got {content[:4].hex(' ')}" if content else "and it is empty"


def unreadable(what: str, error: Exception) -> InputError:
    """Return the error for a file of arrays that is damaged or holds Python objects.

    Args:
        what: the file, and the array in it.
        error: what NumPy raised.
    """
    if "allow_pickle" in str(error):
        return InputError(f"{what} holds Python objects, which are never unpickled. Save numbers instead.")
    return InputError(f"{what} is truncated or damaged ({' '.join(str(error).split()) or type(error).__name__}).")
