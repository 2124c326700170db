"""Results of a run as a file: CSV, Parquet, or arrays of NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pvae.commands.csv_text import write_csv
from pvae.errors import InputError
from pvae.files import replace_file

__all__ = ["check_table_path", "require_free", "write_table"]

SUFFIXES = (".csv", ".npz", ".parquet")


def check_table_path(out: str, *, force: bool) -> Path:
    """Return the path of a file to write.

    Args:
        out: the path.
        force: whether a file may be replaced.

    Raises:
        InputError: if it has another ending than those of `SUFFIXES`, its folder does not exist, or it exists.
    """
    path = Path(out)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out needs a path that ends in {', '.join(SUFFIXES)}; got {out!r}.")
    if not path.resolve().parent.is_dir():
        raise InputError(f"--out needs a path in an existing folder; the folder {path.parent} does not exist.")
    require_free(path, force=force)
    return path


def require_free(path: Path, *, force: bool) -> None:
    """Raise InputError if a file exists and may not be replaced."""
    if path.exists() and not force:
        raise InputError(f"{path} exists already, and was not changed. Replace it with --force, or name another file.")


def write_table(path: Path, name: str, values: Any, *, keep_formulas: bool = False) -> None:
    """Write values, one row for each datum.

    Args:
        path: the file; its ending is the format.
        name: the name of the array, and of the columns of values without names: ``x_0``, ``x_1``, ...
        values: a frame or series of pandas, or a tensor, shape (data, ...).
        keep_formulas: whether text that a spreadsheet would run as a formula is written to CSV as it is.

    Raises:
        InputError: if Parquet files cannot be written, because pyarrow is not installed.
    """
    import numpy as np

    suffix = path.suffix.lower()
    with replace_file(path) as unfinished:
        if suffix == ".npz":
            with unfinished.open("wb") as file:
                np.savez(file, **_arrays(name, values))
        elif suffix == ".csv":
            write_csv(unfinished, _as_frame(name, values), keep_formulas=keep_formulas)
        else:
            try:
                _as_frame(name, values).to_parquet(unfinished, index=False)
            except ImportError as error:
                raise InputError(
                    'Parquet files need pyarrow: pip install "pvae[parquet]". Or write a .csv or .npz file.'
                ) from error


def _arrays(name: str, values: Any) -> dict[str, Any]:
    """Return values as arrays, with the names of the columns in ``columns`` where they have some."""
    import numpy as np
    import pandas as pd

    if isinstance(values, pd.Series):
        texts = pd.api.types.is_string_dtype(values.dtype)
        return {name: values.to_numpy(dtype=str) if texts else values.to_numpy()}
    if isinstance(values, pd.DataFrame):
        return {name: values.to_numpy(), "columns": np.array([str(column) for column in values.columns])}
    return {name: values.numpy()}


def _as_frame(name: str, values: Any) -> Any:
    """Return values as a frame whose columns have names that are text."""
    import pandas as pd

    if isinstance(values, pd.DataFrame | pd.Series):
        frame = values.to_frame() if isinstance(values, pd.Series) else values
        return frame.rename(columns=str)
    table = values.reshape(len(values), -1).numpy()
    columns = [name] if values.dim() == 1 else [f"{name}_{column}" for column in range(table.shape[1])]
    return pd.DataFrame(table, columns=columns)
