"""A data set as it was read, and how it becomes training, validation and test data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch, as_batch
from pvae.checks import is_number, is_whole
from pvae.data.binarise import derived_seed
from pvae.data.splits import Splits, digest
from pvae.errors import InputError

__all__ = ["Source", "source_of", "split"]

_OWN = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Source:
    """Data as they were read, with the splits that they bring and the defaults for those they do not.

    Attributes:
        name: the set's or the file's name.
        train: the training data, or all of them.
        own: validation and test splits that the source brings.
        data_shape: shape of one datum.
        digest: SHA-256 of the content.
        defaults: fraction or count for the splits that the source does not bring.
    """

    name: str
    train: Batch
    data_shape: tuple[int, ...]
    digest: str
    own: Mapping[str, Batch] = field(default_factory=dict)
    defaults: Mapping[str, float] = field(default_factory=lambda: {"validation": 0.1, "test": 0.1})


def source_of(name: str, fields: Mapping[str, Any]) -> Source:
    """Return a user's arrays as a source; ``x_test``, ``y_validation`` and the like are splits of their own.

    Raises:
        InputError: if there is no ``x``, an array is unfit, or the splits do not agree with each other.
    """
    parts: dict[str, dict[str, Any]] = {part: {} for part in _OWN}
    for key, value in fields.items():
        stem, _, part = key.rpartition("_") if isinstance(key, str) else (key, "", "")
        here, there = (part, stem) if part in _OWN and stem else ("train", key)
        if there in parts[here]:
            raise InputError(f"{name} has both {there!r} and '{there}_train'; keep one.")
        parts[here][there] = value
    if "x" not in parts["train"]:
        names = ", ".join(str(key) for key in fields) or "none"
        raise InputError(f"{name} needs an array named x (the data); it has {names}. Rename the array to x.")
    batches = {part: _checked(name, part, given) for part, given in parts.items() if given}
    train = batches.pop("train")
    for part, batch in batches.items():
        _check_agreement(name, part, batch, train)
    every = {"train": train, **batches}
    content = {f"{part}.{key}": tensor for part, batch in every.items() for key, tensor in batch.items()}
    return Source(name, train, tuple(train.x.shape[1:]), digest(content), batches)


def split(source: Source, *, validation: float | None, test: float | None, seed: int) -> Splits:
    """Return the splits of a source: its own where it has them, else drawn from its data by the seed.

    Args:
        source: the data.
        validation: fraction of what the test split leaves, or count; 0 for none; None for the default.
        test: fraction of the data, or count; 0 for none; None for the source's own or default.
        seed: decides which data are drawn.

    Raises:
        InputError: if a size is no fraction or count, asks for a split that the source brings itself, or
            leaves no data to train on.
    """
    order = torch.randperm(source.train.size, generator=torch.Generator().manual_seed(derived_seed(seed, "split")))
    parts: dict[str, Batch | None] = {}
    state, notes = hashlib.sha256(source.digest.encode()), []
    for part, asked in (("test", test), ("validation", validation)):
        if part in source.own:
            parts[part] = _own(source, part, asked)
            state.update(f"{part}:{'own' if parts[part] is not None else 'none'};".encode())
            continue
        chosen, order = _draw(source, part, asked, order)
        parts[part] = source.train.take(chosen) if len(chosen) else None
        state.update(f"{part}:{len(chosen)};".encode() + chosen.numpy().tobytes())
        if len(chosen):
            notes.append(f"{part}: {len(chosen)} of {source.train.size} data, drawn with seed {seed}")
    # What is left keeps the order of the source, and its memory where nothing was drawn from it.
    train = source.train if len(order) == source.train.size else source.train.take(order.sort().values)
    return Splits(
        train=train, validation=parts["validation"], test=parts["test"],
        name=source.name, data_shape=source.data_shape, binarise="auto",
        seed=seed, checksum=state.hexdigest(), notes=tuple(notes),
    )  # fmt: skip


def _own(source: Source, part: str, asked: float | None) -> Batch | None:
    if asked is None:
        return source.own[part]
    if asked == 0:
        return None
    raise InputError(
        f"{source.name} brings its own {part} split of {source.own[part].size} data; "
        f"leave {part} out, or say {part}=0 to do without. Got {part}={asked}."
    )


def _draw(source: Source, part: str, asked: float | None, order: Tensor) -> tuple[Tensor, Tensor]:
    available = len(order)
    count = _count(part, source.defaults[part] if asked is None else asked, available)
    if count >= available:
        raise InputError(
            f"{part} would take {count} of the {available} data that are left in {source.name}, and "
            f"leave none to train on. Ask for less, or say {part}=0."
        )
    return order[:count], order[count:]


def _count(part: str, asked: Any, available: int) -> int:
    if not is_number(asked) or not (0 <= asked < 1 or (is_whole(asked) and asked >= 1)):
        raise InputError(f"{part} needs a fraction from 0 to below 1, or a count of data; got {asked!r}.")
    number = float(asked)
    return int(number) if number >= 1 or number == 0 else max(1, round(number * available))


def _checked(name: str, part: str, fields: Mapping[str, Any]) -> Batch:
    try:
        return as_batch(fields)
    except InputError as error:
        where = name if part == "train" else f"{name}, {part} split"
        raise InputError(f"{where}: {error}") from error


def _check_agreement(name: str, part: str, batch: Batch, train: Batch) -> None:
    if "x" not in batch:
        raise InputError(f"{name} has {batch.names[0]}_{part} but no x_{part}.")
    if batch.x.shape[1:] != train.x.shape[1:]:
        came, needed = tuple(batch.x.shape[1:]), tuple(train.x.shape[1:])
        raise InputError(f"{name}: one datum of x_{part} has shape {came}, one of x has {needed}; they need to agree.")
