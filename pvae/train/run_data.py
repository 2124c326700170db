"""Load the data of a run again, by the record in its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from pvae.batch import Batch
from pvae.data import Schema, Splits, load_data
from pvae.data.raw_data import IN_MEMORY
from pvae.data.scaling import narrowed
from pvae.errors import InputError

__all__ = ["data_of_run", "reading_like", "require_split"]

#: The advice in Python if the data of a run are not found.
_GIVE_DATA = "Give the data as an argument."


def data_of_run(
    config: Mapping[str, Any],
    data: Any = None,
    folder: str | os.PathLike[str] | None = None,
    reading: Mapping[str, Any] | None = None,
    *,
    advice: str = _GIVE_DATA,
) -> Splits:
    """Return the data that a run was trained on, with the same splits and binarisation; or load other data.

    Args:
        config: the content of the ``config.toml`` of the run.
        data: other data, or the run's own data if they have moved, in any form that `load_data` takes.
        folder: searched for named data before ``$PVAE_DATA`` and the cache.
        reading: how a file is read, as options of `load_data`; by default as in the training.
        advice: how to name the data, for errors.

    Raises:
        InputError: if the run's own data were in memory, cannot be loaded any more, or have changed since the training.
    """
    recorded = config["data"]
    options = {"binarise": recorded["binarise"], "seed": recorded["seed"], "folder": folder}
    options["mask"] = recorded.get("mask", "none")
    options["labels"] = recorded.get("labels") if data is None else None
    options |= {name: recorded[name] for name in ("validation", "test") if name in recorded}
    options |= reading_like(Schema.from_record(recorded.get("schema", {})), reading or {}, own=data is None)
    splits = load_data(data, **options) if data is not None else _own_data(recorded, options, advice)
    dtype = torch.float64 if config["training"]["precision"] == "float64" else torch.float32
    return splits.map_data(partial(narrowed, dtype=dtype))


def _own_data(recorded: Mapping[str, Any], options: Mapping[str, Any], advice: str) -> Splits:
    """Return the data that a run was trained on.

    Args:
        recorded: the table ``data`` of its ``config.toml``.
        options: the options of `load_data`.
        advice: how to name the data, for errors.

    Raises:
        InputError: if they were in memory, cannot be loaded, or have another checksum.
    """
    name, path = recorded["name"], recorded.get("path", "")
    if name == IN_MEMORY:
        raise InputError(f"The run was trained on data in memory, which its folder does not hold. {advice}")
    source = path if path and os.path.exists(path) and options["folder"] is None else name
    sizes = {part: recorded["sizes"].get(part) for part in ("validation", "test")}
    try:
        # The sizes of the splits may have been chosen when the data were loaded.
        for chosen in {}, {"validation": sizes["validation"]}, sizes:
            splits = replace(load_data(source, **{**options, **chosen}), name=name)
            if splits.checksum == recorded["checksum"]:
                return splits
    except InputError as error:
        raise InputError(f"The run was trained on {name!r}: {error} {advice}") from error
    raise InputError(
        f"The data {source} have changed since the run was trained: their checksum is {splits.checksum[:12]}..., the "
        f"recorded one is {recorded['checksum'][:12]}.... {advice}"
    )


def reading_like(schema: Schema, given: Mapping[str, Any], *, own: bool) -> dict[str, Any]:
    """Return the options of `load_data` that bring a file into the form of the training data.

    Args:
        schema: the schema of the training data.
        given: the options that the user gives.
        own: whether the file is that of the training, which is read in the same way as then.
    """
    options = {name: value for name, value in given.items() if value is not None}
    recorded = schema.options
    if own:
        options |= {
            name: recorded[name] for name in ("separator", "header") if name in recorded and name not in options
        }
    if recorded.get("missing"):
        options.setdefault("missing", recorded.get("words", "mask"))
    return {**options, "channels": schema.channels or "auto", "like": schema}


def require_split(splits: Splits, name: str, advice: str = "Choose one with split=.") -> Batch:
    """Return one split.

    Args:
        splits: the data.
        name: ``"train"``, ``"validation"`` or ``"test"``.
        advice: how to name a split, for errors.

    Raises:
        InputError: if the data have no split of that name.
    """
    batch = splits.parts.get(name)
    if batch is None:
        known = ", ".join(known for known, part in splits.parts.items() if part is not None)
        raise InputError(f"{splits.name} has no {name} split; it has {known}. {advice}")
    return batch
