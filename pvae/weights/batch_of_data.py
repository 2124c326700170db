"""The batch of `log_weights`, from every form of data that `pvae.fit` takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from pvae.batch import as_batch
from pvae.data import Splits, load_data
from pvae.data.split_sources import is_mapping_of_parts
from pvae.errors import InputError
from pvae.programs.binding import Fields
from pvae.programs.queries import has_bernoulli_likelihood

__all__ = ["batch_of_data"]


def batch_of_data(latent_model: Any, data: Any, split: str, fields: Fields) -> Mapping[str, Tensor]:
    """Return data as one batch.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        data: named tensors, which are returned unchanged; `Splits`, or the name or the path of data, of which `split`
            is used; or anything else that `load_data` takes, completely.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        fields: as for `pvae.models.bind`.

    Raises:
        InputError: if the data cannot be read, or have no such split.
    """
    if isinstance(data, Mapping) and not is_mapping_of_parts(data) and not _has_arrays(data):
        return data
    if isinstance(data, Tensor | np.ndarray) and not isinstance(data, np.ma.MaskedArray | np.memmap):
        return as_batch(data)
    is_split = isinstance(data, Splits | str | os.PathLike) or is_mapping_of_parts(data)
    if not is_split:
        return load_data(data, binarise="none", validation=0, test=0).train
    splits = data if isinstance(data, Splits) else load_data(data)
    if splits.binarise == "auto":
        first_data = splits.train.take(slice(0, 100))
        splits = splits.for_likelihood(has_bernoulli_likelihood(latent_model, first_data, fields))
    batch = splits.parts.get(split)
    if batch is None:
        known = ", ".join(name for name, part in splits.parts.items() if part is not None)
        raise InputError(f"{splits.name} has no {split} split, only {known}. Choose one with split=.")
    return batch


def _has_arrays(data: Mapping[str, Any]) -> bool:
    return any(not isinstance(value, Tensor) and hasattr(value, "__array__") for value in data.values())
