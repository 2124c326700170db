"""Readers: a file becomes named arrays, or one line that says why it cannot. Nothing is ever unpickled."""

from __future__ import annotations

import csv
import gzip
import itertools
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from pvae.errors import InputError

__all__ = [
    "SUFFIXES",
    "parse_idx",
    "read_arrays",
    "read_bytes",
    "read_csv",
    "read_idx",
    "read_npy",
    "read_npz",
]

# What zipfile, zlib and NumPy raise at damaged bytes; RuntimeError has their unknown versions and encryption.
_DAMAGED = (
    EOFError, KeyError, MemoryError, OSError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_arrays(path: Path, *, holes: bool = False) -> dict[str, np.ndarray]:
    """Return a file's arrays by name, read as its suffix says.

    ``.npz`` has them by name, ``.npy`` and IDX files are ``x``, and ``.csv`` has a row per datum.

    Args:
        path: the file.
        holes: an empty cell of a ``.csv`` file is NaN.

    Raises:
        InputError: if the file is missing, of another kind, or damaged.
    """
    for suffix, reader in _READERS.items():
        if path.name.lower().endswith(suffix):
            return read_csv(path, holes=True) if holes and reader is read_csv else reader(path)
    if not path.exists():
        raise _no_file(path)
    raise InputError(f"{path} is of no kind that is read here; give one of {', '.join(SUFFIXES)}.")


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, decompressed where it is gzip, whatever its name says.

    Raises:
        InputError: if the file is missing or its compressed content is truncated or damaged.
    """
    raw = _raw(path)
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except _DAMAGED as error:
        raise InputError(f"{path} is a damaged or truncated gzip file ({error}). Copy or fetch it again.") from error


def read_idx(path: Path) -> np.ndarray:
    """Return the array of an IDX file (the format of MNIST), gzip or raw.

    Raises:
        InputError: if the magic number is not that of an IDX file, or the length is not what its header says.
    """
    return parse_idx(read_bytes(path), str(path))


def parse_idx(content: bytes, name: str) -> np.ndarray:
    """Return the array in the bytes of an IDX file; ``name`` stands in the errors of ``read_idx``."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_DTYPES:
        raise InputError(f"{name} is no IDX file: it needs the magic number 00 00 08 03 or alike, {_got(content)}.")
    dtype, dimensions = np.dtype(_IDX_DTYPES[content[2]]), content[3]
    start = 4 + 4 * dimensions
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4", count=(len(content[4:start])) // 4))
    needed = start + math.prod(shape) * dtype.itemsize
    if len(shape) != dimensions or len(content) != needed:
        raise InputError(f"{name} is truncated or damaged: its header needs {needed} bytes, it has {len(content)}.")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def read_npy(path: Path) -> np.ndarray:
    """Return the array of a ``.npy`` file.

    Raises:
        InputError: if it is no such file, is damaged, or holds Python objects.
    """
    _check_magic(path, b"\x93NUMPY", "NumPy array file (.npy)")
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except _DAMAGED as error:
        raise _unreadable(str(path), error) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by name.

    Raises:
        InputError: if it is no such file, is damaged, or one of its arrays holds Python objects.
    """
    _check_magic(path, b"PK", "NumPy archive (.npz)")
    name = ""
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                arrays[name] = np.asarray(archive[name])
    except _DAMAGED as error:
        raise _unreadable(f"{name} in {path}" if name else str(path), error) from error
    return arrays


def read_csv(path: Path, *, holes: bool = False) -> dict[str, np.ndarray]:
    """Return the columns of a comma-separated file: ``y`` where a header says ``y`` or ``label``, else ``x``.

    Args:
        path: a text file with a row of numbers per datum, and a first row of names where there is one.
        holes: an empty cell is NaN, and no error.

    Raises:
        InputError: if a row has another length than the first, or a cell is no number (with its line).
    """
    rows = _csv_rows(path)
    if holes:
        rows = ((line, [cell if cell.strip() else "nan" for cell in row]) for line, row in rows)
    first = next(rows, (0, []))
    named = not all(_is_number(cell) for cell in first[1])
    header = [cell.strip() if named else f"column {i + 1}" for i, cell in enumerate(first[1])]
    numbers = [_csv_numbers(path, *row, header) for row in (rows if named else itertools.chain([first], rows))]
    if not header or not numbers:
        raise InputError(f"{path} has no rows of numbers.")
    values = np.stack(numbers)
    labels = [i for i, name in enumerate(header) if name.lower() in {"y", "label"}]
    if len(labels) > 1:
        raise InputError(f"{path} has {len(labels)} columns named y or label; keep one.")
    if len(labels) == len(header):
        raise InputError(f"{path} has labels and no other column for x.")
    arrays = {"x": np.delete(values, labels, axis=1).astype(np.float32)}
    if labels:
        y = values[:, labels[0]]
        arrays["y"] = y.astype(np.int64) if np.array_equal(y, np.round(y)) else y.astype(np.float32)
    return arrays


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        text = _raw(path).decode("utf-8-sig")
        reader = csv.reader(text.splitlines(), skipinitialspace=True)
        yield from ((reader.line_num, row) for row in reader if row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is no comma-separated text in UTF-8 ({error}).") from error


def _csv_numbers(path: Path, line: int, row: list[str], header: list[str]) -> np.ndarray:
    if len(row) != len(header):
        raise InputError(f"{path}, line {line}: {len(header)} columns needed, {len(row)} came.")
    try:
        return np.fromiter(map(float, row), dtype=np.float64, count=len(row))
    except ValueError:
        wrong = next(i for i, cell in enumerate(row) if not _is_number(cell))
        came = f"{row[wrong]!r:.40}" if row[wrong].strip() else "an empty cell"
        raise InputError(
            f"{path}, line {line}, column {header[wrong]!r}: a number is needed, {came} came. "
            "Encode text as numbers and separate cells by commas."
        ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _raw(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise _no_file(path) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error


def _no_file(path: Path) -> InputError:
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


def _unreadable(what: str, error: Exception) -> InputError:
    if "allow_pickle" in str(error):
        return InputError(f"{what} holds Python objects, which are never unpickled. Save numbers instead.")
    return InputError(f"{what} is truncated or damaged ({' '.join(str(error).split()) or type(error).__name__}).")


_READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".npz": read_npz,
    ".npy": lambda path: {"x": read_npy(path)},
    ".csv": read_csv,
    "-ubyte": lambda path: {"x": read_idx(path)},
    "-ubyte.gz": lambda path: {"x": read_idx(path)},
}
SUFFIXES = tuple(_READERS)
