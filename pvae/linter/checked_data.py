"""The batch that the linter checks, from a batch or from training data."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from pvae.batch import Batch
from pvae.data import Splits, load_data
from pvae.data.split_sources import is_mapping_of_parts
from pvae.data.streams.stored_batch import StoredBatch
from pvae.models.make_model import build_model
from pvae.programs.binding import Fields
from pvae.programs.queries import has_bernoulli_likelihood

__all__ = ["built_model", "checked_batch"]


def checked_batch(
    latent_model: Any, data: Any, fields: Fields, batch_size: int
) -> tuple[Mapping[str, Tensor], int | None]:
    """Return a batch as `pvae.fit` would make it, and the number of all training data if it is known.

    Args:
        latent_model: any object with ``model`` and ``guide``.
        data: a batch in memory, or a mapping to tensors, which is returned unchanged; or any data that `pvae.fit`
            takes.
        fields: as for `pvae.models.bind`.
        batch_size: the number of data in a batch; a loader has its own.

    Raises:
        InputError: if the data cannot be read.
    """
    if _is_batch(data):
        return data, None
    if isinstance(data, StoredBatch):
        return data.take(slice(0, data.own_batch_size or batch_size)), data.known_size
    splits = data if isinstance(data, Splits) else load_data(data)
    train = splits.train
    size = train.own_batch_size if isinstance(train, StoredBatch) else None
    batch = train.take(slice(0, size or batch_size))
    if not splits.train_dynamic and has_bernoulli_likelihood(latent_model, batch, fields):
        splits = splits.for_likelihood(True)
        batch = splits.train.take(slice(0, size or batch_size))
    return (batch.replace(x=batch.x.round()) if splits.train_dynamic else batch), train.known_size


def built_model(recipe: Any, data: Any) -> tuple[Any, Any]:
    """Return the latent model that a recipe makes for data, and the loaded data.

    Args:
        recipe: as for `pvae.models.make_model.build_model`. From a batch, only the shapes of its fields are used.
        data: as for `checked_batch`.
    """
    if _is_batch(data):
        return build_model(
            recipe, SimpleNamespace(data_shape=tuple(data["x"].shape[1:]), field_shapes=_field_shapes(data))
        ), data
    splits = data if isinstance(data, Splits) else load_data(data)
    return build_model(recipe, splits), splits


def _field_shapes(batch: Mapping[str, Tensor]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the name and the shape of one datum of each tensor besides x."""
    others = ((name, value) for name, value in batch.items() if name != "x" and isinstance(value, Tensor))
    return tuple((name, tuple(value.shape[1:])) for name, value in others)


def _is_batch(data: Any) -> bool:
    """Return whether data are a batch in memory, or fields that are tensors or values of a collate function."""
    if isinstance(data, Batch):
        return not isinstance(data, StoredBatch)
    if not isinstance(data, Mapping) or is_mapping_of_parts(data):
        return False
    # pandas is not imported here, because a check of tensors needs no table
    packages = {type(value).__module__.partition(".")[0] for value in data.values()}
    return not packages & {"numpy", "pandas", "polars"}
