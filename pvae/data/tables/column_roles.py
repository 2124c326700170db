"""The roles of the columns of a table: features, label, and names of rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pvae.data.tables.frame_columns import LARGEST_WHOLE
from pvae.data.tables.table_options import TableOptions
from pvae.errors import InputError
from pvae.names import unknown

__all__ = ["LABEL_NAMES", "Roles", "find_roles"]

#: Names of columns that are read as the label, if their values can be one.
LABEL_NAMES = ("label", "target", "class", "y")
_PANDAS_UNNAMED = re.compile(r"Unnamed: \d+(_level_\d+)?|index|level_0", re.IGNORECASE)
#: A column of whole numbers has few values if there are at most this many, or at most a fifth of the number of rows.
_FEW = 20


@dataclass(frozen=True)
class Roles:
    """The roles of columns.

    Attributes:
        features: the features, in order.
        label: the label, or nothing.
        index: the columns that name the rows.
        left_out: columns that the user did not choose.
        notes: notes on what was inferred and may be wrong.
    """

    features: tuple[str, ...]
    label: tuple[str, ...]
    index: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def find_roles(name: str, columns: Mapping[str, np.ndarray], unnamed: tuple[str, ...], options: TableOptions) -> Roles:
    """Return the roles of the columns of a table.

    Args:
        name: the table, for messages.
        columns: the values of each column; text and missing values of text are objects.
        unnamed: columns without a name, if other columns have one.
        options: the options that the user gave.

    Raises:
        InputError: if the user names a column that does not exist, or if the role of a column is not clear.
    """
    for option in ("index", "columns", "categories"):
        _require_known(name, option, getattr(options, option) or (), columns)
    index, index_notes = _index(name, columns, unnamed, options)
    others = [column for column in columns if column not in index]
    label, label_notes = _label(name, {column: columns[column] for column in others}, options)
    features = [column for column in (options.columns or others) if column not in (*label, *index)]
    if not features:
        raise InputError(f"{name} has {'labels and ' if label else ''}no other column for x.")
    left_out = [column for column in others if column not in (*features, *label)]
    notes = (*index_notes, *label_notes, *_counting_notes(name, columns, features, options))
    return Roles(tuple(features), tuple(label), tuple(index), tuple(left_out), notes)


def _require_known(name: str, option: str, wanted: tuple[str, ...], columns: Mapping[str, np.ndarray]) -> None:
    for column in wanted:
        if column not in columns:
            raise unknown(f"column in {option}= of {name}", column, list(columns))


def _index(
    name: str, columns: Mapping[str, np.ndarray], unnamed: tuple[str, ...], options: TableOptions
) -> tuple[list[str], list[str]]:
    """Return the columns that name the rows: the user's choice, else a first column without a name."""
    if options.index is not None:
        return list(options.index), []
    first = next(iter(columns))
    without_name = [column for column in unnamed if column not in (options.columns or ())]
    if _PANDAS_UNNAMED.fullmatch(first) and _counts(columns[first]) and first not in (options.columns or ()):
        without_name = [first, *without_name]
    if not without_name:
        return [], []
    values = columns[first]
    names_rows = values.dtype.kind in "iuO" and len(set(values.tolist())) == len(values)
    if without_name == [first] and names_rows:
        what = "counts" if _counts(values) else "names"
        return [first], [f"the first column has no name, {what} the rows and is left out"]
    raise InputError(
        f"{name}: {without_name[0]!r} has no name, and its values do not name the rows. Set index= to "
        f"leave it out, or index='none' to make it a feature (--index '{without_name[0]}', --index none)."
    )


def _counts(values: np.ndarray) -> bool:
    """Return whether a column counts the rows from 0 or from 1."""
    if values.dtype.kind not in "iu" or not len(values):
        return False
    return int(values[0]) in (0, 1) and bool((np.diff(values) == 1).all())


def _counting_notes(
    name: str, columns: Mapping[str, np.ndarray], features: list[str], options: TableOptions
) -> list[str]:
    """Return a line for a feature that counts the rows, if the user did not choose it."""
    chosen = (*(options.columns or ()), *options.categories)
    counting = [column for column in features if column not in chosen and len(columns[column]) > 2]
    counting = [column for column in counting if _counts(columns[column])]
    return [
        f"the column {column!r} counts the rows and is read as a feature; index={column!r} leaves it out"
        for column in counting
    ]


def _label(name: str, columns: Mapping[str, np.ndarray], options: TableOptions) -> tuple[list[str], list[str]]:
    """Return the column of the label: the user's choice, else a column with a usual name and few values."""
    if options.label == "none":
        return [], []
    if options.label in (None, options.known_label) and options.known_label is not None:
        return [column for column in columns if column == options.known_label], []
    if options.label is not None:
        _require_known(name, "label", (options.label,), columns)
        if not _is_whole(columns[options.label]):
            raise InputError(
                f"{name}: the column {options.label!r} has real numbers, but a label is one of several classes. Use it "
                "as a feature, or name another label."
            )
        return [options.label], []
    coordinates = {column.lower() for column in columns}
    usual = [column for column in columns if column.lower() in LABEL_NAMES and column not in options.categories]
    usual = [column for column in usual if column not in (options.columns or ())]
    if "x" in coordinates:  # x and y are the coordinates of a point
        usual = [column for column in usual if column.lower() != "y"]
    found = [column for column in usual if _is_whole(columns[column]) and _has_few_values(columns[column])]
    if len(found) > 1:
        raise InputError(
            f"{name} has {len(found)} columns that could be the label: {', '.join(found)}. Name one with label= "
            "(--label), or set label='none'."
        )
    notes = [
        f"the column {column!r} has {_count_values(columns[column])} different values and is read as a feature; "
        f"label={column!r} makes it the label"
        for column in usual
        if column not in found
    ]
    return found, notes


def _is_whole(values: np.ndarray) -> bool:
    """Return whether a column has text, booleans or exact whole numbers."""
    if values.dtype.kind != "f":
        return True
    known = values[~np.isnan(values)]
    return bool(len(known)) and bool((known == np.round(known)).all() and (np.abs(known) < LARGEST_WHOLE).all())


def _count_values(values: np.ndarray) -> int:
    return len({value for value in values.tolist() if value is not None and value == value})


def _has_few_values(values: np.ndarray) -> bool:
    return values.dtype.kind in "bO" or _count_values(values) <= max(_FEW, len(values) // 5)
