"""Splits from data that are split already: a mapping from "train", "validation" and "test" to sources of any kind."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pvae.data.data_source import DataSource, draw_splits
from pvae.data.splits import Splits
from pvae.errors import InputError

__all__ = ["is_mapping_of_parts", "join_parts"]

_PARTS = ("train", "validation", "test")


def is_mapping_of_parts(source: Any) -> bool:
    """Return whether a source is a mapping from "train", and maybe "validation" and "test", to data.

    Args:
        source: the argument of `load_data`.
    """
    return isinstance(source, Mapping) and "train" in source and set(source) <= set(_PARTS)


def join_parts(sources: Mapping[str, DataSource], validation: Any, test: Any, seed: int) -> Splits:
    """Return splits of these data; none is drawn.

    Args:
        sources: the data by split.
        validation: the option of `load_data`, which must be None or 0.
        test: the option of `load_data`, which must be None or 0.
        seed: the seed of the splits.

    Raises:
        InputError: if a size of a split is given, or data of different splits differ in shape, fields or labels.
    """
    for part, size in (("validation", validation), ("test", test)):
        if size:
            raise InputError(f"These data are split already, so {part}={size} cannot be used. Leave it out.")
    train = sources["train"]
    for part, source in sources.items():
        _require_same(part, source, train)
    own = {part: source.train for part, source in sources.items() if part != "train"}
    contents = "".join(f"{part}:{source.digest};" for part, source in sorted(sources.items()))
    notes = [f"{part}: {note}" for part, source in sources.items() for note in source.notes]
    accounts = [f"{part}: {source.schema.account}" for part, source in sources.items() if source.schema.account]
    joined = replace(
        train,
        digest=hashlib.sha256(contents.encode()).hexdigest(),
        own=own,
        schema=train.schema.changed(account="; ".join(accounts)),
        notes=tuple(notes),
    )
    return draw_splits(
        joined, validation=0 if "validation" not in own else None, test=0 if "test" not in own else None, seed=seed
    )


def _require_same(part: str, source: DataSource, train: DataSource) -> None:
    if source.data_shape != train.data_shape:
        raise InputError(
            f"The {part} data have shape {source.data_shape} per datum, but the training data have {train.data_shape}. "
            "Make them equal."
        )
    if source.schema.classes != train.schema.classes:
        raise InputError(
            f"The labels of the {part} data are {_shown(source.schema.classes)}, of the training data "
            f"{_shown(train.schema.classes)}, but the labels of all parts must have the same numbers. Number them 0, "
            "1, ... in all parts."
        )
    if source.schema.columns != train.schema.columns:
        raise InputError(
            f"The {part} data have other columns than the training data. Give the same columns in the same order."
        )


def _shown(classes: tuple[Any, ...]) -> str:
    return ", ".join(map(str, classes[:6])) or "whole numbers from 0 on"
