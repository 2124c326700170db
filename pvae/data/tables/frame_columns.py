"""The values of a column of a data frame as an array of numbers, truth values or text."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LARGEST_WHOLE", "column_values", "type_name"]

#: Beyond this number, float64 cannot represent all whole numbers.
LARGEST_WHOLE = 2**53
_WHOLE = (bool, np.bool_, int, np.integer)


def column_values(values: pd.Series) -> np.ndarray:
    """Return a column as numbers, truth values or text.

    Missing values are NaN in numbers and None in text. They are also None in a column with whole numbers that float64
    cannot represent, which stay Python integers.

    Args:
        values: the column.

    Returns:
        The values, (rows,).
    """
    import pandas as pd

    if isinstance(values.dtype, pd.SparseDtype):
        values = values.sparse.to_dense()
    if isinstance(values.dtype, pd.CategoricalDtype):
        has_gaps = bool(values.isna().any())
        values = values.astype(object if has_gaps else values.cat.categories.dtype)
    kind = values.dtype.kind
    if kind in "iufb" and isinstance(values.dtype, np.dtype):
        return values.to_numpy()
    if pd.api.types.is_numeric_dtype(values.dtype) and kind != "c" and not (kind in "iu" and values.isna().any()):
        # nullable numbers and booleans of pandas
        return values.to_numpy(dtype=None if not values.isna().any() else "float64", na_value=np.nan)
    return _of_objects(np.array(values.astype(object).where(values.notna(), None), dtype=object))


def _of_objects(array: np.ndarray) -> np.ndarray:
    """Return objects, with None for missing ones, as numbers if all of them are numbers; else unchanged."""
    known = [value for value in array if value is not None]
    if not known:
        return np.full(len(array), np.nan)
    if not all(isinstance(value, (*_WHOLE, float, np.floating, Decimal)) for value in known):
        return array
    if all(isinstance(value, _WHOLE) for value in known):
        if len(known) == len(array):
            return np.array(list(array))
        if max(map(abs, map(int, known))) > LARGEST_WHOLE:
            return array
    return np.array([np.nan if value is None else float(value) for value in array])


def type_name(values: np.ndarray) -> str:
    """Return the type of a column in one or two words.

    Args:
        values: the result of `column_values`.
    """
    if values.dtype == object:
        return "whole numbers" if all(value is None or isinstance(value, _WHOLE) for value in values) else "text"
    if values.dtype.kind == "b":
        return "truth values"
    return "whole numbers" if values.dtype.kind in "iu" else "numbers"
