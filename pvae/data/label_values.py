"""Number labels 0, 1, ...; labels may be words, codes, -1 and +1, or one-hot vectors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.checks import is_whole
from pvae.data.labels import HIDDEN
from pvae.data.nan_to_mask import with_gaps
from pvae.errors import InputError

__all__ = ["NumberedLabels", "number_labels"]

#: For at least this number of classes, a warning suggests that the label may be an identifier.
_MANY_CLASSES = 1000


@dataclass(frozen=True)
class NumberedLabels:
    """Fields with labels that are numbers from 0 on.

    Attributes:
        fields: the fields; ``y`` and ``y_test`` and similar fields are numbered.
        classes: the original value of each label; () if the labels did not change.
        notes: notes on changes of the labels.
    """

    fields: dict[str, Any]
    classes: tuple[Any, ...]
    notes: tuple[str, ...]


def number_labels(
    fields: Mapping[str, Any], *, classes: Sequence[Any] | None = None, hidden_allowed: bool = False
) -> NumberedLabels:
    """Return fields in which labels are numbered from 0 on.

    Whole numbers 0, 1, ..., with -1 for a hidden label, do not change. Real numbers are not labels and do not change.

    Args:
        fields: arrays by name; the labels are ``y``, ``y_test`` and similar fields.
        classes: the original values of the labels of earlier data, in order, which also give the numbers of these
            labels; () if the labels of the earlier data were numbers; None without earlier data.
        hidden_allowed: whether a missing label (None or NaN in text, masked) is a hidden one.

    Raises:
        InputError: if a label is missing although this is not allowed, if -1 may be a class or a hidden label, or if a
            label is not in `classes`.
    """
    names = [name for name in fields if name == "y" or (isinstance(name, str) and name.startswith("y_"))]
    arrays = {name: _as_labels(fields[name]) for name in names}
    if not arrays or any(array is None for array in arrays.values()):
        return NumberedLabels(dict(fields), (), ())
    labels = {name: array for name, array in arrays.items() if array is not None}
    notes = _shape_notes(fields, labels)
    missing = {name: _missing(array) for name, array in labels.items()}
    count = sum(int(each.sum()) for each in missing.values())
    if count and not hidden_allowed:
        name = next(name for name in labels if missing[name].any())
        raise InputError(
            f"{name} has {count} missing labels, the first at {int(np.flatnonzero(missing[name])[0])}. "
            "missing='mask' reads them as hidden (-1)."
        )
    if count:
        notes.append(f"{count} missing labels are hidden (-1)")
    known = np.concatenate([array[~missing[name]] for name, array in labels.items()])
    values = np.unique(known).tolist() if known.dtype.kind != "O" else sorted(set(known.tolist()), key=_sort_key)
    order, hides, order_notes = _order(values, known, classes)
    _warn_of_many(len(order) or len(values))
    coded = {name: _like(fields[name], _codes(array, missing[name], order, hides)) for name, array in labels.items()}
    return NumberedLabels({**fields, **coded}, tuple(order), (*notes, *order_notes))


def _as_labels(value: Any) -> np.ndarray | None:
    """Return labels as one value per datum; None if they are real numbers or no labels."""
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    if isinstance(array, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(array)
        array = with_gaps(array.data, masked) if masked.any() else array.data
    array = np.asarray(array)
    if array.ndim == 2 and array.shape[1] == 1 and array.dtype.kind != "f":
        array = array[:, 0]
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "biuf" and _is_one_hot(array):
        return array.argmax(1)
    if array.ndim != 1 or array.dtype.kind in "fc" or not array.size:
        return None
    if array.dtype.kind == "O":
        array = _plain_objects(array)
    return array


def _is_one_hot(array: np.ndarray) -> bool:
    return bool(((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all())


def _plain_objects(array: np.ndarray) -> np.ndarray:
    """Return objects as text or numbers, with None for missing ones."""
    known = [value for value in array if not _is_missing(value)]
    if any(not isinstance(value, str | bool | int | float | np.generic) for value in known):
        raise InputError(f"y needs labels that are text or numbers; got {type(known[0]).__name__}.")
    text = any(isinstance(value, str) for value in known)
    plain = [None if _is_missing(value) else str(value) if text else value for value in array]
    return np.array([*plain, None], dtype=object)[:-1]


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and value != value)


def _missing(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "O":
        return np.zeros(len(array), bool)
    return np.array([value is None for value in array], dtype=bool)


def _sort_key(value: Any) -> tuple[bool, Any]:
    return isinstance(value, str), value


def _shape_notes(fields: Mapping[str, Any], labels: Mapping[str, np.ndarray]) -> list[str]:
    shapes = {tuple(np.shape(fields[name])[1:]) for name in labels}
    wide = sorted(shape for shape in shapes if shape and shape != (1,))
    return [f"one-hot vectors y of {wide[0][0]} classes are read as labels"] if wide else []


def _order(values: list[Any], known: np.ndarray, classes: Sequence[Any] | None) -> tuple[list[Any], bool, list[str]]:
    """Return the original values in the order of their numbers, whether -1 means a hidden label, and notes.

    There are no values if the labels do not change.
    """
    whole = all(is_whole(value) for value in values)
    if classes:
        hides = whole and HIDDEN in values and HIDDEN not in classes
        strange = [value for value in values if value not in classes and not (hides and value == HIDDEN)]
        if strange:
            shown = ", ".join(map(str, list(classes)[:8])) + (", ..." if len(classes) > 8 else "")
            raise InputError(
                f"The label {strange[0]!r} is not one of the labels of the training: {shown}. Correct the labels, or "
                "leave these data out."
            )
        return list(classes), hides, []
    if classes is not None and whole:
        return [], False, []
    if not whole:
        return values, False, [_numbering(values)]
    return _order_of_numbers(values, known)


def _order_of_numbers(values: list[int], known: np.ndarray) -> tuple[list[Any], bool, list[str]]:
    """Return the order of whole numbers; it is empty if they count from 0 on, possibly with gaps and with -1."""
    others = [value for value in values if value != HIDDEN]
    counts = bool(others) and others[0] == 0 and others[-1] < 2 * len(others)
    if HIDDEN not in values:
        return ([], False, []) if counts or not values else (values, False, [_numbering(values)])
    if not others or counts:
        hidden = int((known == HIDDEN).sum())
        return [], False, [f"{hidden} labels are -1, which means hidden; give words as labels if -1 is a class"]
    if len(values) == 2 or others[0] < HIDDEN:  # if there is also -2, -1 is a class
        return values, False, [_numbering(values)]
    raise InputError(
        f"y has -1 and {others[0]} to {others[-1]}, so -1 may be a class or mean a hidden label. Number the "
        "classes from 0 on if it means hidden; give words as labels if it is a class."
    )


def _numbering(values: Sequence[Any]) -> str:
    shown = [str(value) for value in values]
    pairs = [f"{value} is {number}" for number, value in enumerate(shown[:4])]
    more = ", ..." if len(shown) > 4 else ""
    return f"labels are numbered from 0 on: {', '.join(pairs)}{more}"


def _codes(array: np.ndarray, missing: np.ndarray, order: list[Any], hides: bool) -> np.ndarray:
    """Return the number of each label, (data,), int64; -1 for a hidden one."""
    if not order:
        return np.where(missing, HIDDEN, array).astype(np.int64)
    numbers = {value: number for number, value in enumerate(order)}
    if hides:
        numbers[HIDDEN] = HIDDEN
    values = array.tolist()
    return np.array(
        [HIDDEN if gone else numbers[value] for value, gone in zip(values, missing, strict=True)], dtype=np.int64
    )


def _like(given: Any, codes: np.ndarray) -> Any:
    """Return the numbers of labels as a tensor on the device of the labels, if these were a tensor."""
    return torch.from_numpy(codes).to(given.device) if isinstance(given, Tensor) else codes


def _warn_of_many(count: int) -> None:
    if count > _MANY_CLASSES:
        warnings.warn(
            f"y has {count} classes. A model of labels has an output for each class, and sums over all of them. Check "
            "that y is a label, and not a number or name of each datum.",
            stacklevel=4,
        )
