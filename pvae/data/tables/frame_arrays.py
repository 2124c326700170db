"""The columns of a data frame by their roles: features x, label y, names of the rows, text columns as features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pvae.data.nan_to_mask import with_gaps
from pvae.data.schema import Schema
from pvae.data.tables.column_roles import Roles, find_roles
from pvae.data.tables.dialect import is_number
from pvae.data.tables.frame_columns import LARGEST_WHOLE, column_values, type_name
from pvae.data.tables.table_options import TableOptions
from pvae.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FrameSource", "TableArrays", "arrays_of_frame"]

#: A function from row and column to a description of the place of the cell, and its text.
Place = Callable[[int, str], tuple[str, str]]
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class FrameSource:
    """A data frame with its description.

    Attributes:
        name: the name of the frame, for messages.
        frame: the columns; text, numbers and truth values.
        has_names: whether the names of the columns were given.
        unnamed: columns without a name, if other columns have one.
        account: a text on how it was read.
        notes: notes on what was inferred and may be wrong.
        place: finds a cell in the file.
        decimal: the decimal sign of numbers in text.
    """

    name: str
    frame: pd.DataFrame
    has_names: bool = True
    unnamed: tuple[str, ...] = ()
    account: str = ""
    notes: tuple[str, ...] = ()
    place: Place | None = None
    decimal: str = "."

    def cell(self, row: int, column: str) -> tuple[str, str]:
        """Return a description of the place of a cell, and its text."""
        if self.place is not None:
            return self.place(row, column)
        return f"{self.name}, row {row}, column {column!r}", str(self.frame[column].iloc[row])


@dataclass(frozen=True, eq=False)
class TableArrays:
    """A table as arrays.

    Attributes:
        arrays: x, shape (rows, features), float64 with NaN for missing values; y, (rows,), if there is a label.
        schema: the names and types.
        notes: notes on what was inferred.
        row_names: the name and the values, (rows,), of the first column that names the rows, or None.
    """

    arrays: dict[str, np.ndarray]
    schema: Schema
    notes: tuple[str, ...]
    row_names: tuple[str, np.ndarray] | None = None


def arrays_of_frame(source: FrameSource, options: TableOptions) -> TableArrays:
    """Return a table as arrays.

    Args:
        source: the table.
        options: the options that the user gave.

    Raises:
        InputError: if a named column does not exist, a feature has text, a value is missing although this is not
            allowed, or there are no features.
    """
    if not len(source.frame):
        raise InputError(f"{source.name} needs rows of numbers; it has none.")
    columns = {str(name): column_values(source.frame[name]) for name in source.frame.columns}
    roles = find_roles(source.name, columns, source.unnamed, options)
    features: list[np.ndarray] = []
    names, values_of = [], {}
    texts = [name for name in roles.features if columns[name].dtype == object and name not in options.categories]
    _refuse_text(source, columns, texts)
    for name in roles.features:
        if name in options.categories:
            values_of[name] = _category_values(source, name, columns[name], options.known_values.get(name, ()))
            features += list(_one_hot(columns[name], values_of[name]).T)
            names += [f"{name}={value}" for value in values_of[name]]
        else:
            features.append(_as_float64(source, name, columns[name]))
            names.append(name)
    x = _side_by_side(features)
    used = roles.features if options.ignores_label else (*roles.features, *roles.label)
    missing = {name: int(_is_missing(columns[name]).sum()) for name in used}
    if not options.missing:
        _refuse_missing(source, columns, [name for name in missing if missing[name]])
    arrays = {"x": x, **dict(zip(("y",), [_label_values(columns[name]) for name in roles.label], strict=False))}
    schema = Schema(
        account=_account(source, len(x), names, roles),
        columns=tuple(names) if source.has_names else (),
        types={name: type_name(values) for name, values in columns.items() if type_name(values) != "numbers"},
        label=roles.label[0] if roles.label else "",
        categories={name: tuple(values) for name, values in values_of.items()},
        missing={name: count for name, count in missing.items() if count},
        rows=len(x),
        options=options.chosen(),
    )
    row_names = (roles.index[0], columns[roles.index[0]]) if roles.index else None
    return TableArrays(arrays, schema, (*source.notes, *roles.notes), row_names)


def _side_by_side(columns: list[np.ndarray]) -> np.ndarray:
    """Return columns, (rows,) each, as one array, (rows, columns), written in parts that fit into a cache."""
    x = np.empty((len(columns[0]), len(columns)))
    for start in range(0, len(x), _ROWS_AT_ONCE):
        np.stack([column[start : start + _ROWS_AT_ONCE] for column in columns], 1, out=x[start : start + _ROWS_AT_ONCE])
    return x


def _account(source: FrameSource, rows: int, names: list[str], roles: Roles) -> str:
    shown = ", ".join(" ".join(name.split()) for name in names[:6]) + (", ..." if len(names) > 6 else "")
    counted = f"{rows} row{'s' * (rows != 1)} of {len(names)} feature{'s' * (len(names) != 1)}"
    parts = [counted + (f" ({shown})" if source.has_names else "")]
    parts += [f"label {name!r}" for name in roles.label] or ["no label"]
    parts += [f"{name!r} names the rows and is left out" for name in roles.index if not roles.notes]
    parts += [f"left out: {', '.join(roles.left_out[:6])}"] if roles.left_out else []
    return "; ".join([*([source.account] if source.account else []), *parts])


def _label_values(values: np.ndarray) -> np.ndarray:
    """Return labels as whole numbers, truth values or text, with None for a missing one."""
    if values.dtype.kind != "f":
        return values
    missing = np.isnan(values)
    whole = np.where(missing, 0, values).astype(np.int64)
    return with_gaps(whole, missing) if missing.any() else whole


def _is_missing(values: np.ndarray) -> np.ndarray:
    if values.dtype == object:
        return np.array([value is None for value in values], dtype=bool)
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)


def _refuse_missing(source: FrameSource, columns: dict[str, np.ndarray], names: list[str]) -> None:
    """Raise InputError for missing values, with the place of the first one.

    Cells with the text nan are checked later.
    """
    if not names:
        return
    first = {name: int(np.flatnonzero(_is_missing(columns[name]))[0]) for name in names}
    name = min(names, key=lambda each: first[each])
    place, cell = source.cell(first[name], name)
    if cell.strip().lower() in ("nan", "-nan") and source.place is not None:
        return
    came = f"{cell!r:.40}" if cell.strip() else "an empty cell"
    raise InputError(f"{place}: a number is needed, got {came}. With missing='mask' it is a missing value.")


def _refuse_text(source: FrameSource, columns: dict[str, np.ndarray], names: list[str]) -> None:
    """Raise InputError for text in features, with its place if the column also has numbers, else with the columns."""
    for name in names:
        values = columns[name]
        is_text = np.array([isinstance(value, str) and not is_number(value, source.decimal) for value in values])
        others = np.array([value is not None for value in values], dtype=bool) & ~is_text
        if others.any() and is_text.any():
            place, cell = source.cell(int(np.flatnonzero(is_text)[0]), name)
            raise InputError(
                f"{place}: a number is needed, got {cell!r:.40}. Encode text as numbers, or set missing={cell!r:.40} "
                "if it marks a missing value."
            )
    for name in names:
        if all(isinstance(value, int | np.integer) for value in columns[name] if value is not None):
            raise _too_large(source, name)
    if names:
        shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
        first = next(value for value in columns[names[0]] if value is not None)
        kind = "text" if isinstance(first, str) else type(first).__name__
        raise InputError(
            f"{source.name}: numbers are needed, but {shown} {'have' if len(names) > 1 else 'has'} {kind}, such as "
            f"{str(first)!r:.40}. Make features of it with categories=, a label with label=, or leave "
            "it out with columns= (--categories, --label, --columns)."
        )


def _as_float64(source: FrameSource, name: str, values: np.ndarray) -> np.ndarray:
    """Return a column of numbers as float64; each number must be exact."""
    if (
        values.dtype.kind in "iu"
        and len(values)
        and max(abs(int(values.max())), abs(int(values.min()))) > LARGEST_WHOLE
    ):
        raise _too_large(source, name)
    return values.astype(np.float64, copy=False)


def _too_large(source: FrameSource, name: str) -> InputError:
    return InputError(
        f"{source.name}: the column {name!r} has whole numbers beyond 2^53, and float64 cannot represent all of them "
        "exactly. Such numbers are usually identifiers: leave the column out with columns= or index=."
    )


def _category_values(source: FrameSource, name: str, values: np.ndarray, known: tuple[str, ...]) -> list[str]:
    """Return the values of a category, in order; the values in earlier data, if they are known."""
    texts = [_text(value) for value in values]
    missing = _is_missing(values)
    found = sorted({text for text, gone in zip(texts, missing, strict=True) if not gone}, key=_sort_key)
    strange = [text for text in found if known and text not in known]
    if strange:
        place, _ = source.cell(texts.index(strange[0]), name)
        raise InputError(f"{place}: {strange[0]!r} is not one of the values in the training: {', '.join(known[:8])}.")
    return list(known) or found


def _sort_key(text: str) -> tuple[int, float, str]:
    return (0, float(text), "") if is_number(text) else (1, 0.0, text)


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _one_hot(values: np.ndarray, known: list[str]) -> np.ndarray:
    """Return a column for each known value, shape (rows, values): 1 if the cell has the value, NaN if it is missing."""
    texts = [_text(value) for value in values]
    result = np.array([[text == value for value in known] for text in texts], dtype=np.float64)
    result[_is_missing(values)] = np.nan
    return result
