"""Read objects that hold data as arrays by name: frames, lists, sparse matrices, data sets and loaders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from pvae.data.item_data import is_item_source, read_items
from pvae.data.nan_to_mask import with_gaps
from pvae.data.raw_data import IN_MEMORY, RawData, require_memory
from pvae.data.schema import Schema
from pvae.data.tables.frame_arrays import FrameSource, arrays_of_frame
from pvae.data.tables.row_names import require_same_order
from pvae.data.tables.table_options import TableOptions
from pvae.errors import InputError

__all__ = ["frame_data", "is_of_pytorch", "read_object"]


def read_object(source: Any, options: TableOptions) -> RawData:
    """Return the data in an object.

    Args:
        source: an array or tensor; a list of rows; a pair (x, y); a mapping from names to arrays; a frame or series of
            pandas or polars; a structured or masked array; a sparse matrix of SciPy; an array or data set of xarray; a
            file or data set of h5py; an AnnData; a data set or loader of PyTorch.
        options: how to read a table.

    Raises:
        InputError: if the object is none of these, or its values cannot be used.
    """
    if isinstance(source, Mapping) and not _is_from(source, "h5py", "xarray"):
        return _mapping(source, options)
    if isinstance(source, tuple) and len(source) == 2:
        return _pair(source, options)
    reader = _reader_of(source)
    if reader is not None:
        return reader(source, options)
    options.refuse_for(f"this {type(source).__name__}")
    if isinstance(source, Tensor | np.ndarray) or hasattr(source, "__array__"):
        return RawData(IN_MEMORY, {"x": source})
    raise InputError(
        "Data need to be an array, a tensor, a pair (x, y), a mapping from names to arrays, a data frame, a list of "
        f"rows, or a data set or loader of PyTorch; got {type(source).__name__}."
    )


def _reader_of(source: Any) -> Callable[[Any, TableOptions], RawData] | None:
    """Return the function that reads an object of this type; None for plain arrays and unknown objects."""
    if _is_from(source, "pandas", "polars"):
        return _frame
    if isinstance(source, list | tuple):
        return _rows
    if isinstance(source, np.ndarray) and source.dtype.names is not None:
        return _structured
    if _is_from(source, "scipy"):
        return _sparse
    if _is_from(source, "xarray"):
        return _xarray
    if _is_from(source, "h5py"):
        return _h5py
    if _is_from(source, "anndata"):
        return _anndata
    if is_item_source(source):
        return read_items
    return None


def is_of_pytorch(source: Any) -> bool:
    """Return whether an object is a data set or a loader of PyTorch, and not a container of another reader.

    Args:
        source: any object.
    """
    return not isinstance(source, Mapping) and _reader_of(source) is read_items


def _is_from(source: Any, *packages: str) -> bool:
    return type(source).__module__.partition(".")[0] in packages


def frame_data(source: FrameSource, options: TableOptions) -> RawData:
    """Return the data of a table."""
    table = arrays_of_frame(source, options)
    return RawData(source.name, table.arrays, table.schema, table.notes, table.row_names)


def _frame(source: Any, options: TableOptions) -> RawData:
    return frame_data(FrameSource(IN_MEMORY, _as_pandas(source), account="a data frame"), options)


def _as_pandas(source: Any) -> Any:
    """Return a frame or series of pandas or polars as a frame of pandas, with text as names of columns."""
    import pandas as pd

    if _is_from(source, "polars"):
        table = source.collect() if hasattr(source, "collect") else source
        columns = table.get_columns() if hasattr(table, "get_columns") else [table]
        return pd.DataFrame({column.name: _polars_values(column) for column in columns})
    frame = source.to_frame() if source.ndim == 1 else source
    names = ["/".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(f"{IN_MEMORY}: {names.count(twice[0])} columns are named {twice[0]!r}; rename all but one.")
    return frame.set_axis(names, axis=1)


def _polars_values(column: Any) -> Any:
    """Return a column of polars; whole numbers next to missing ones stay whole numbers."""
    import pandas as pd

    if column.dtype.is_numeric() and not column.dtype.is_decimal() and not column.null_count():
        return column.to_numpy()
    return pd.Series(column.to_list(), dtype=object)


def _mapping(source: Mapping[str, Any], options: TableOptions) -> RawData:
    """Return the fields of a mapping; columns of one number each, without an x, are a table."""
    fields = dict(source)
    require_same_order(fields)
    if "x" in fields:
        raw = read_object(fields["x"], options) if _is_table(fields["x"]) else RawData(IN_MEMORY, {"x": fields["x"]})
        if "x" not in raw.fields or set(raw.fields) & (set(fields) - {"x"}):
            raise InputError(f"{IN_MEMORY} have labels in x and in another field. Keep one of them.")
        plain = {name: _plain_field(value, str(name)) for name, value in fields.items() if name != "x"}
        return RawData(IN_MEMORY, {**raw.fields, **plain}, raw.schema, raw.notes)
    columns = {name: _plain_field(value) for name, value in fields.items()}
    if columns and all(isinstance(name, str) and np.ndim(value) == 1 for name, value in columns.items()):
        import pandas as pd

        lengths = {len(value) for value in columns.values()}
        if len(lengths) == 1 and not any(isinstance(value, Tensor) for value in columns.values()):
            return frame_data(FrameSource(IN_MEMORY, pd.DataFrame(columns), account="a mapping of columns"), options)
    options.refuse_for("a mapping to arrays")
    return RawData(IN_MEMORY, columns)


def _is_table(value: Any) -> bool:
    return _is_from(value, "pandas", "polars", "scipy", "xarray") or isinstance(value, list)


def _plain_field(value: Any, name: str = "y") -> Any:
    """Return a field other than x as an array: columns of frames and lists become arrays, other values are kept.

    Raises:
        InputError: for a table with a column that does not hold numbers, unless it is labels.
    """
    if _is_from(value, "pandas", "polars"):
        values = _as_pandas(value)
        if name.partition("_")[0] != "y":
            _require_numbers(name, values)
        return values.iloc[:, 0].to_numpy() if values.shape[1] == 1 else values.to_numpy()
    if _is_from(value, "scipy"):
        return value.toarray()
    return np.asarray(value) if isinstance(value, list) else value


def _require_numbers(name: str, table: Any) -> None:
    """Refuse a table as a field other than x if one of its columns does not hold numbers."""
    import pandas as pd

    for column, values in table.items():
        kind = getattr(values.dtype, "kind", "O")
        if kind not in "biuf" and not pd.api.types.is_numeric_dtype(values.dtype):
            first = next(iter(values.dropna()), None)
            if kind == "O" and not isinstance(values.dtype, pd.CategoricalDtype) and not isinstance(first, str):
                continue  # such as numbers next to missing ones
            raise InputError(
                f"{IN_MEMORY}: the field {name!r} needs numbers in each column; its column {column!r} has {first!r}. "
                "Make numbers of it, as by pandas.get_dummies(table, dtype=float), or give the table as x."
            )


def _pair(source: tuple[Any, Any], options: TableOptions) -> RawData:
    """Return x and y; a table of features and a column of labels keep their names."""
    x, y = source
    require_same_order({"x": x, "y": y})
    raw = read_object(x, options) if _is_table(x) else RawData(IN_MEMORY, {"x": x})
    if "y" in raw.fields:
        raise InputError(f"{IN_MEMORY} are a pair (x, y), but x has its own label ({raw.schema.label!r}); keep one.")
    schema = raw.schema
    if _is_from(y, "pandas", "polars"):
        schema = schema.changed(label=str(_as_pandas(y).columns[0]))
    return RawData(IN_MEMORY, {"x": raw.fields["x"], "y": _plain_field(y)}, schema, raw.notes)


def _rows(source: Any, options: TableOptions) -> RawData:
    """Return a list of rows: of numbers, tensors, arrays, or mappings from columns to cells."""
    rows = list(source)
    if rows and all(isinstance(row, Mapping) for row in rows):
        import pandas as pd

        return frame_data(FrameSource(IN_MEMORY, pd.DataFrame(rows), account="a list of mappings"), options)
    options.refuse_for("a list of rows")
    shapes = [np.shape(row) if not isinstance(row, Tensor) else tuple(row.shape) for row in rows]
    uneven = next((number for number, shape in enumerate(shapes) if shape != shapes[0]), None)
    if uneven is not None:
        raise InputError(
            f"{IN_MEMORY} are a list with different rows: row 0 has shape {shapes[0]}, row {uneven} has "
            f"{shapes[uneven]}. Make them equal, or pad the short rows and pass a mask."
        )
    return RawData(IN_MEMORY, {"x": np.asarray([np.asarray(row) for row in rows])})


def _structured(source: np.ndarray, options: TableOptions) -> RawData:
    """Return a structured array as a table of its fields."""
    import pandas as pd

    wide = [name for name in source.dtype.names or () if source[name].ndim != 1]
    if wide:
        raise InputError(
            f"{IN_MEMORY} have the field {wide[0]!r} with several numbers per row; give a mapping to arrays."
        )
    columns = {name: _filled(_as_text(source[name])) for name in source.dtype.names or ()}
    return frame_data(FrameSource(IN_MEMORY, pd.DataFrame(columns), account="a structured array"), options)


def _filled(values: np.ndarray) -> Any:
    """Return a column with None in place of masked values."""
    if not isinstance(values, np.ma.MaskedArray) or not np.ma.getmaskarray(values).any():
        return np.asarray(values)
    return with_gaps(values.data, np.ma.getmaskarray(values))


def _sparse(source: Any, options: TableOptions) -> RawData:
    options.refuse_for("a sparse matrix")
    size = int(np.prod(source.shape)) * max(4, source.dtype.itemsize)
    require_memory(2 * size, f"A sparse matrix of shape {source.shape} as an array", "Take fewer rows or columns.")
    return RawData(IN_MEMORY, {"x": source.toarray()}, Schema(account="a sparse matrix, read as an array"))


def _xarray(source: Any, options: TableOptions) -> RawData:
    """Return an array or a data set of xarray. Its variables are fields if one of them is x, else columns."""
    if hasattr(source, "data_vars"):
        return _mapping({str(name): source[name].to_numpy() for name in source.data_vars}, options)
    options.refuse_for("an array of xarray")
    values = source.to_numpy()
    columns: tuple[str, ...] = ()
    if values.ndim == 2 and source.dims[1] in source.coords:
        columns = tuple(map(str, source.coords[source.dims[1]].to_numpy()))
    account = f"an array of xarray, {source.dims[0]!r} counts the data" if values.ndim else ""
    return RawData(IN_MEMORY, {"x": values}, Schema(account=account, columns=columns))


def _h5py(source: Any, options: TableOptions) -> RawData:
    """Return a data set of an HDF5 file, or a group; its data sets are fields."""
    options.refuse_for("an HDF5 file")
    if not isinstance(source, Mapping):
        return RawData(IN_MEMORY, {"x": source[()]})
    fields = {name: item[()] for name, item in source.items() if hasattr(item, "dtype")}
    return RawData(IN_MEMORY, {name: _as_text(values) for name, values in fields.items()})


def _as_text(values: Any) -> Any:
    """Return bytes, as HDF5 stores text, as text."""
    array = np.asanyarray(values)
    if array.dtype.kind == "O" and array.size and isinstance(array.flat[0], bytes):
        return np.array([value.decode("utf-8") for value in array.flat]).reshape(array.shape)
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _anndata(source: Any, options: TableOptions) -> RawData:
    """Return the matrix X of an AnnData, with the names of its variables, and one column of obs as the label."""
    x = _plain_field(source.X)
    fields: dict[str, Any] = {"x": x}
    if options.label not in (None, "none"):
        if options.label not in source.obs:
            raise InputError(f"obs has no column {options.label!r}; it has {', '.join(map(str, source.obs))}.")
        fields["y"] = source.obs[options.label].astype(str).to_numpy()
    label = options.label or ""
    account = f"AnnData: X, {x.shape[0]} rows of {x.shape[1]} features; " + (
        f"label {label!r}" if label else "no label"
    )
    return RawData(IN_MEMORY, fields, Schema(account=account, columns=tuple(map(str, source.var_names)), label=label))
