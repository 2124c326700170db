"""Read a file or a folder of pictures as arrays by name; the suffix decides how it is read. Nothing is unpickled."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pvae.data.containers import frame_data, read_object
from pvae.data.file_limits import missing_file, require_content, size_of
from pvae.data.image_folders import read_image_folder
from pvae.data.matrix_files import read_mat, require_hdf5
from pvae.data.parquet_files import read_parquet
from pvae.data.raw_data import RawData
from pvae.data.readers import read_idx, read_npy, read_npz
from pvae.data.sparse_files import is_sparse_file, sparse_matrix
from pvae.data.tables.frame_arrays import FrameSource
from pvae.data.tables.table_options import TableOptions
from pvae.data.tables.text_lines import require_text
from pvae.data.tables.text_tables import read_text_table
from pvae.errors import InputError
from pvae.outside_files import read_start

__all__ = ["SUFFIXES", "read_path", "read_table"]

Reader = Callable[[Path, TableOptions], RawData]
_HDF5 = b"\x89HDF\r\n\x1a\n"
_EXCEL = (".xls", ".xlsx", ".xlsm", ".ods")


def read_path(path: Path, options: TableOptions) -> RawData:
    """Return the data in a file, or in a folder of pictures.

    The arrays of an ``.npz``, ``.mat`` or HDF5 file are fields by their names, the array of a ``.npy`` or IDX file is
    ``x``, and a text or Parquet file is a table with one row per datum.

    Args:
        path: the file or folder.
        options: how to read a table.

    Raises:
        InputError: if the file is missing or damaged, has another suffix, or an option is only for tables.
    """
    if path.is_dir() and not path.name.lower().endswith(SUFFIXES):
        options.refuse_for(f"the folder {path}")
        return read_image_folder(path)
    suffix = next((suffix for suffix in _READERS if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise _unknown_suffix(path)
    raw = _READERS[suffix](path, options)
    return replace(raw, name=path.name)


def read_table(path: Path, options: TableOptions) -> FrameSource:
    """Return the table in a text or Parquet file, before its columns have roles.

    Raises:
        InputError: as `read_path`.
    """
    if path.name.lower().endswith(".parquet"):
        return _parquet(path, options)
    require_content(path, size_of(path))
    require_text(str(path), read_start(path, 1 << 16))
    table = read_text_table(path, options)
    return FrameSource(
        str(path),
        table.frame,
        table.has_names,
        table.unnamed,
        table.account,
        table.notes,
        table.place,
        table.dialect.decimal,
    )


def _unknown_suffix(path: Path) -> InputError:
    if not path.exists():
        return missing_file(path)
    if path.suffix.lower() in _EXCEL:
        return InputError(
            f"{path} is a spreadsheet, which pvae does not read. Save the sheet as CSV and pass that file."
        )
    known = ", ".join(dict.fromkeys(suffix for suffix in SUFFIXES if not suffix.endswith(".gz")))
    return InputError(f"{path} has a suffix that cannot be read. Give a file with one of {known}.")


def _table(path: Path, options: TableOptions) -> RawData:
    return frame_data(read_table(path, options), options)


def _parquet(path: Path, options: TableOptions) -> FrameSource:
    if options.separator is not None or options.header is not None:
        raise InputError(
            f"separator and header are options of text files, and {path} is a Parquet file. Leave them out."
        )
    size_of(path)
    parquet = _require("pyarrow.parquet", "parquet", path)
    frame = read_parquet(parquet, path)
    return FrameSource(str(path), frame.set_axis(map(str, frame.columns), axis=1), account="Parquet")


def _arrays(read: Callable[[Path], Any]) -> Reader:
    """Return the reader of files with arrays that have names of fields, or with only x."""

    def reader(path: Path, options: TableOptions) -> RawData:
        content = read(path)
        if isinstance(content, np.ndarray) and content.dtype.names is not None:
            return read_object(content, options)
        options.refuse_for(str(path))
        return RawData(path.name, dict(content) if isinstance(content, dict) else {"x": content})

    return reader


def _mat(path: Path) -> dict[str, Any]:
    """Return the arrays of a file of MATLAB. Those named X and Y are x and y, and whole numbers in y are whole."""
    size_of(path)
    if _HDF5 in read_start(path, 1024):  # version 7.3, which stores arrays with their dimensions in reverse order
        fields = {name: np.asarray(value).T for name, value in _hdf5(path).items()}
    else:
        fields = read_mat(path)
    named = {name: fields.pop(name.upper()) for name in ("x", "y") if name not in fields and name.upper() in fields}
    return {name: _whole_labels(name, value) for name, value in {**fields, **named}.items()}


def _whole_labels(name: str, value: Any) -> Any:
    """Return labels as whole numbers, (data, 1) or (data,); MATLAB stores real numbers, perhaps in a row."""
    value = value.toarray() if hasattr(value, "toarray") else value
    is_whole = value.dtype.kind in "iub" or (value.dtype.kind == "f" and np.array_equal(value, np.round(value)))
    if name.partition("_")[0] != "y" or not is_whole:
        return value
    whole = value.astype(np.int64) if value.dtype.kind == "f" else value
    return whole.T if whole.ndim == 2 and whole.shape[0] == 1 else whole


def _hdf5(path: Path) -> dict[str, Any]:
    size_of(path)
    h5py = _require("h5py", "hdf5", path)
    try:
        require_hdf5(h5py, path)
        with h5py.File(path, "r") as file:
            return read_object(file, TableOptions()).fields
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{path} is not an HDF5 file, or is damaged ({' '.join(str(error).split())[:120]})."
        ) from error


def _anndata(path: Path, options: TableOptions) -> RawData:
    size_of(path)
    anndata, h5py = _require("anndata", "anndata", path), _require("h5py", "hdf5", path)
    try:
        require_hdf5(h5py, path)
        content = anndata.read_h5ad(path)
        require_content(path, math.prod(content.X.shape) * content.X.dtype.itemsize)  # the sparse matrix becomes dense
    except InputError:
        raise
    except Exception as error:  # the package may raise any error for a damaged file
        raise InputError(
            f"{path} is not a file of AnnData, or is damaged ({' '.join(str(error).split())[:120]})."
        ) from error
    return read_object(content, options)


def _npz(path: Path, options: TableOptions) -> RawData:
    """Return the arrays of an ``.npz`` file by name, or the sparse matrix that they describe, as x."""
    arrays = read_npz(path)
    if is_sparse_file(arrays):
        return read_object(sparse_matrix(path, arrays), options)
    return _arrays(lambda _: arrays)(path, options)


def _require(package: str, extra: str, path: Path) -> Any:
    """Return an optional package.

    Raises:
        InputError: if it is not installed; the message names the extra that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise InputError(f'{path} needs the package {name}: pip install "pvae[{extra}]".') from error


_READERS: dict[str, Reader] = {
    ".npz": _npz,
    ".npy": _arrays(read_npy),
    ".csv": _table,
    ".tsv": _table,
    ".txt": _table,
    ".csv.gz": _table,
    ".tsv.gz": _table,
    ".txt.gz": _table,
    ".parquet": _table,
    ".mat": _arrays(_mat),
    ".h5": _arrays(_hdf5),
    ".hdf5": _arrays(_hdf5),
    ".h5ad": _anndata,
    "-ubyte": _arrays(read_idx),
    "-ubyte.gz": _arrays(read_idx),
}
SUFFIXES = tuple(_READERS)
