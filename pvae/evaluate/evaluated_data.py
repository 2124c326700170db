"""The data of an evaluation, in the form of the data that a run was trained on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from torch import Tensor

from pvae.batch import Batch, as_batch
from pvae.data import Schema, Splits, load_data
from pvae.data.containers import is_of_pytorch
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError
from pvae.programs.base import LatentModel
from pvae.programs.model_traits import HasPrograms
from pvae.structures import is_structure
from pvae.train import Run
from pvae.train.data_for_run import RunForm
from pvae.train.run_data import data_of_run

__all__ = ["HoldsLatentModel", "ModelOrRun", "evaluated_data", "schema_of"]


@runtime_checkable
class HoldsLatentModel(Protocol):
    """An object with a latent model as its attribute ``model``, such as a `pvae.Run`."""

    model: Any


#: A latent model or an object that holds one, the first argument of evaluations.
ModelOrRun: TypeAlias = Run | LatentModel | HasPrograms | HoldsLatentModel


def schema_of(model: Any) -> Schema:
    """Return the schema of the data that a run was trained on; an empty one for other models."""
    record = model.config.get("data", {}).get("schema", {}) if isinstance(model, Run) else {}
    return Schema.from_record(record)


def evaluated_data(model: Any, data: Any) -> Splits | Batch:
    """Return data as splits or as a batch, with columns, labels and scaling as in the training of a run.

    Args:
        model: a run, or any latent model; its training data are not known.
        data: `Splits`, a `Batch`, or what `pvae.load_data` accepts. A name or a path is read as in `pvae.fit`; for a
            run, with the splits, the binarisation and the mask of the training. None means the data of the training of
            a run, if their checksum is that of the training.

    Raises:
        InputError: if the data cannot be used, or have other columns, labels or shapes than those of the training.
    """
    return _in_form_of_training(model, _read_data(model, data))


def _in_form_of_training(model: Any, data: Splits | Batch) -> Splits | Batch:
    """Return data with a mask of ones if a run was trained with masks and they have none, after a check of shapes.

    Data that are read in parts are returned unchanged.
    """
    if not isinstance(model, Run) or "fields" not in model.config.get("data", {}):
        return data
    form = RunForm(model.config["data"], model.config["training"]["precision"])

    def formed(part: Batch) -> Batch:
        is_stored = isinstance(part, StoredBatch)
        return part if is_stored or is_structure(part["x"]) else form.require_shapes(form.with_mask(part))

    if isinstance(data, Batch):
        return formed(data)
    validation, test = (None if part is None else formed(part) for part in (data.validation, data.test))
    return replace(data, train=formed(data.train), validation=validation, test=test)


def _read_data(model: Any, data: Any) -> Splits | Batch:
    if data is None or isinstance(data, str | os.PathLike):
        return _named_data(model, data)
    schema = schema_of(model)
    if isinstance(data, Splits):
        return load_data(data, like=schema) if schema != Schema() else data
    if isinstance(data, Batch):
        return data
    if is_of_pytorch(data) or isinstance(data, np.memmap):
        return load_data(data, binarise="none", validation=0, test=0, like=schema).train
    if not isinstance(data, Sized | Iterable):
        return as_batch(data)
    if _is_plain(data) and not (schema.classes or schema.scaling):
        return as_batch(data)
    return load_data(data, binarise="none", validation=0, test=0, like=schema).train


def _named_data(model: Any, data: str | os.PathLike[str] | None) -> Splits:
    """Return the splits of a name or a path; for None, or the name of a run's training data, those of the training."""
    if isinstance(model, Run):
        is_own = data is None or os.fspath(data) == model.config["data"]["name"]
        return data_of_run(model.config, None if is_own else data)
    if data is None:
        raise InputError(f"{type(model).__name__} is not a run, so its training data are not known. Give the data too.")
    return load_data(data)


def _is_plain(data: Any) -> bool:
    """Return whether data are arrays without names and without masked values."""
    if isinstance(data, Mapping):
        return all(_is_plain(value) for value in data.values())
    if isinstance(data, tuple):
        return len(data) == 2 and all(_is_plain(value) for value in data)
    if isinstance(data, np.ndarray):
        return not isinstance(data, np.ma.MaskedArray) and data.dtype.names is None
    return isinstance(data, Tensor)
