"""Read files as named arrays: ``.npz``, ``.npy``, ``.csv`` and IDX. Nothing is unpickled."""

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

# What zipfile, zlib and NumPy raise for damaged files; RuntimeError is for unknown versions and encryption.
_DAMAGED = (
    EOFError, KeyError, MemoryError, OSError, OverflowError, RuntimeError, SyntaxError, TypeError, ValueError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_arrays(path: Path, *, empty_cells: bool = False) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name; the suffix of the file decides how it is read.

    An ``.npz`` file has named arrays, the array of a ``.npy`` or IDX file is ``x``, and a ``.csv`` file has one row per
    datum. The arrays keep the shapes that they have in the file.

    Args:
        path: the file.
        empty_cells: whether an empty cell of a ``.csv`` file is read as NaN; otherwise it is an error.

    Raises:
        InputError: if the file is missing or damaged, or has another suffix.
    """
    for suffix, reader in _READERS.items():
        if path.name.lower().endswith(suffix):
            return read_csv(path, empty_cells=True) if empty_cells and reader is read_csv else reader(path)
    if not path.exists():
        raise _no_file(path)
    raise InputError(f"{path} has a suffix that cannot be read; give a file with one of {', '.join(SUFFIXES)}.")


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
    except _DAMAGED as error:
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
    _check_magic(path, b"\x93NUMPY", "NumPy array file (.npy)")
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except _DAMAGED as error:
        raise _unreadable(str(path), error) from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by name, in their shapes in the file.

    Raises:
        InputError: if it is no ``.npz`` file, is damaged, or one of its arrays holds Python objects.
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


def read_csv(path: Path, *, empty_cells: bool = False) -> dict[str, np.ndarray]:
    """Return the columns of a comma-separated file: the column ``y`` or ``label`` is ``y``, the others are ``x``.

    Args:
        path: a text file with one row of numbers per datum; the first row may have the names of the columns.
        empty_cells: whether an empty cell is read as NaN; otherwise it is an error.

    Returns:
        ``x``, shape (data, columns), and ``y``, shape (data,), if the file has it.

    Raises:
        InputError: if a row has another length than the first, or a cell is no number; the message gives the line.
    """
    rows = _csv_rows(path)
    if empty_cells:
        rows = ((line, [cell if cell.strip() else "nan" for cell in row]) for line, row in rows)
    first = next(rows, (0, []))
    has_names = not all(_is_number(cell) for cell in first[1])
    header = [cell.strip() if has_names else f"column {column + 1}" for column, cell in enumerate(first[1])]
    data_rows = rows if has_names else itertools.chain([first], rows)
    numbers = [_csv_numbers(path, line, row, header) for line, row in data_rows]
    if not header or not numbers:
        raise InputError(f"{path} needs rows of numbers; it has none.")
    return _split_columns(path, np.stack(numbers), header)


def _split_columns(path: Path, values: np.ndarray, header: list[str]) -> dict[str, np.ndarray]:
    """Return ``x`` and, where a column is named so, ``y``, from values of shape (data, columns)."""
    labels = [column for column, name in enumerate(header) if name.lower() in {"y", "label"}]
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
        wrong = next(column for column, cell in enumerate(row) if not _is_number(cell))
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
