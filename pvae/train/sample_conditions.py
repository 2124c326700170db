"""The conditions that a model needs for samples, by field, in the form of the data of its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.batch import Batch, as_batch
from pvae.errors import InputError
from pvae.names import value as parse_value
from pvae.programs.binding import Fields, bind
from pvae.programs.model_traits import traits_of
from pvae.programs.row_dependence import PROGRAM_ERRORS
from pvae.train.data_for_run import RunForm

__all__ = ["require_free_x", "with_conditions"]


def with_conditions(model: Any, form: RunForm, batch: Batch, given: Mapping[str, Any], fields: Fields) -> Batch:
    """Return a batch with the conditions of a model; hidden labels if it infers labels.

    Args:
        model: the latent model.
        form: the data of the training.
        batch: x, and a mask if the training had one.
        given: the conditions by field, each one for all data or one for each datum. The name of the column of labels
            may replace ``y``.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if a condition is missing, unknown, or has another number, shape or label.
    """
    needed = _needed(model, form, batch, fields)
    given = {"y" if name == form.schema.label and "y" in needed else name: value for name, value in given.items()}
    if "y" in needed and "y" not in given and callable(traits_of(model).classify):
        return _with_conditions(form, batch, needed, given | {"y": np.full(batch.size, -1)})
    return _with_conditions(form, batch, needed, given)


def _with_conditions(form: RunForm, batch: Batch, needed: Sequence[str], given: Mapping[str, Any]) -> Batch:
    missing = [name for name in needed if name not in given]
    if missing:
        raise InputError(
            f"The model is conditional on {', '.join(missing)}, so samples need a value of it. Give "
            f"given={{{missing[0]!r}: ...}} (--condition {missing[0]}=...): one for all, or {batch.size} values."
        )
    unused = [name for name in given if name not in needed]
    if unused:
        raise InputError(
            f"given= takes the conditions of the model ({', '.join(needed) or 'it has none'}); got {unused[0]!r}, "
            "which has no effect. Leave it out."
        )
    values = {name: _values(form, name, value, batch.size) for name, value in given.items()}
    known = as_batch({"x": batch.x, **values})
    return batch.replace(**{name: known[name] for name in given})


def _needed(model: Any, form: RunForm, batch: Batch, fields: Fields) -> list[str]:
    """Return the fields that the programs need and that the batch does not have; optional ones are not needed."""
    recorded = form.record["fields"]
    trial = batch.replace(**{name: _zeros(batch, field) for name, field in recorded.items() if name not in batch})
    known = (*batch, *traits_of(model).optional_fields)
    return [name for name in bind(model, trial, fields).fields if name not in known]


def _zeros(batch: Batch, field: Mapping[str, Any]) -> Tensor:
    return torch.zeros(batch.size, *field["shape"], dtype=torch.float32 if "float" in field["dtype"] else torch.int64)


def _values(form: RunForm, name: str, value: Any, size: int) -> Any:
    """Return the values of one condition, an array or tensor of shape (size, ...)."""
    field = form.record["fields"].get(name, {"shape": None, "dtype": ""})
    if name == "y" and "int" in field["dtype"]:
        value = _numbered(form, value)
    elif isinstance(value, str):
        value = parse_value(value)
    value = value if isinstance(value, Tensor) else np.asarray(value)
    if list(value.shape) == field["shape"]:  # one for all
        value = (
            value.expand(size, *value.shape) if isinstance(value, Tensor) else np.tile(value, (size, *[1] * value.ndim))
        )
    if len(value) != size or (field["shape"] is not None and list(value.shape[1:]) != field["shape"]):
        raise InputError(
            f"{name} needs one condition of shape {tuple(field['shape'] or ())}, or {size} of them; got values of "
            f"shape {tuple(value.shape)}. Give one for all samples, or one for each."
        )
    return value


def _numbered(form: RunForm, labels: Any) -> Any:
    """Return the numbers of labels in the training; -1, a hidden label, does not change.

    A text may have several labels, with commas.
    """
    classes = form.schema.classes
    names = {str(label): number for number, label in enumerate(classes)}
    if not classes:
        names = {str(number): number for number in range(int(form.record.get("classes") or 0))}
    if isinstance(labels, str) and labels not in names and "," in labels:
        labels = [label.strip() for label in labels.split(",")]
    values = np.asarray(labels)
    texts = [str(value) for value in values.ravel().tolist()]
    strange = [text for text in texts if text not in names and text != "-1"]
    if strange:
        shown = ", ".join(list(names)[:8]) + (", ..." if len(names) > 8 else "")
        raise InputError(
            f"The label {strange[0]!r} is not one of the labels of the training: {shown}. Give one of them."
        )
    return np.array([names.get(text, -1) for text in texts], dtype=np.int64).reshape(values.shape)


def require_free_x(batch: Batch, draw: Callable[[Batch], Tensor]) -> None:
    """Raise InputError if x depends on the observed x, because the zeros in its place would be a condition.

    Args:
        batch: the fields of samples, with x of zeros.
        draw: returns x for a part of the batch, always with the same seed.
    """
    first = batch.take(slice(0, 2))
    at_zero = draw(first)
    try:
        at_one = draw(first.replace(x=torch.ones_like(first.x)))
    except PROGRAM_ERRORS:
        return
    if not torch.equal(at_zero.nan_to_num(), at_one.nan_to_num()):
        raise InputError(
            "The model generates x given a part of x, or a number that it takes from x, so it has no samples "
            "without data. Use `reconstruct` or `impute` on data."
        )
