"""The data of an evaluation: a split, binarised as the likelihood needs it, or a random subset of it."""

from __future__ import annotations

from typing import Any

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.data.splits import Splits
from pvae.data.streams.looks import first_of
from pvae.data.subset import Subset, draw_subset
from pvae.errors import InputError
from pvae.programs.binding import Fields
from pvae.programs.queries import has_bernoulli_likelihood

__all__ = ["FIRST_DATA", "binarised_split", "first_data", "limited_data"]

#: The largest number of data in the first run of the programs. Programs for a fixed number of data need all data; the
#: limit bounds the memory.
FIRST_DATA = 10_000


def _select_split(data: Splits | Batch, split: str) -> Batch:
    """Return a split of `Splits`; other data are one batch, for any `split`."""
    if not isinstance(data, Splits):
        return data
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    if split not in splits:
        raise InputError(f"split must be one of train, validation and test; got {split!r}.")
    batch = splits[split]
    if batch is None or batch.known_size == 0:
        raise InputError(f"The data have no {split} split. Pass a batch, or split='train'.")
    return batch


def first_data(data: Any, split: str) -> Batch:
    """Return the data that show the fields and the values that the likelihood scores."""
    return first_of(_select_split(data, split), FIRST_DATA)


def binarised_split(latent_model: Any, data: Any, split: str, fields: Fields) -> Batch:
    """Return the data of a split; if their binarisation is "auto", the likelihood decides, as in training."""
    if isinstance(data, Splits) and data.binarise == "auto":
        data = data.for_likelihood(has_bernoulli_likelihood(latent_model, first_data(data, split), fields))
    return _select_split(data, split)


def limited_data(batch: Batch, limit: int | None, seed: int) -> tuple[Batch, Subset]:
    """Return a random subset of at most `limit` data, and its description; None takes all."""
    if limit is not None:
        limit = require_whole(limit, "limit", advice="It is the number of data to evaluate; None takes all.")
    if batch.known_size == 0:
        raise InputError("An evaluation needs at least one datum; the data are empty.")
    return draw_subset(batch, limit, seed)
