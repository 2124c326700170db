"""The data of a run, loaded again from what its folder records."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvae.commands.output import print_reading, print_status
from pvae.errors import InputError

if TYPE_CHECKING:
    from pvae.batch import Batch
    from pvae.data import Schema, Splits
    from pvae.train import Run

__all__ = ["data_of_run", "open_named_run", "require_split", "whole_data_for_run"]


def open_named_run(folder: str, checkpoint: str, model: str | None = None, *, trust: bool = False) -> Run:
    """Open the run that a command names; with ``--trust``, a line says which code runs.

    Args:
        folder: the folder of the run.
        checkpoint: ``"best"`` or ``"last"``.
        model: the file and class that the user names in place of the recorded ones, such as my_model.py:MyModel.
        trust: whether the class that the folder names may be imported and built.

    Raises:
        InputError: if the run cannot be opened.
    """
    from pvae.train import open_run
    from pvae.train.recorded_model import code_of_run
    from pvae.train.run import read_config

    if trust and model is None:
        code = code_of_run(read_config(Path(folder)))
        if code:
            print_status(f"Trusted: running the code of {code}, which {folder} names as its model.")
    return open_run(folder, model, checkpoint, trust=trust)


def data_of_run(
    run: Run, data: str | None = None, folder: str | None = None, reading: Mapping[str, Any] | None = None
) -> Splits:
    """Return the data that a run was trained on, with the same splits and binarisation; or load other data.

    Args:
        run: an opened run.
        data: name or file of other data, or of the run's own data if they have moved.
        folder: searched for named data before ``$PVAE_DATA`` and the cache.
        reading: how a file is read, as options of `load_data`; the others are those of the run.

    Raises:
        InputError: if the run's own data cannot be loaded any more, or have changed since the training.
    """
    import torch

    from pvae.data import Schema, load_data
    from pvae.data.scaling import narrowed

    recorded = run.config["data"]
    source = data or recorded["name"]
    options = {"binarise": recorded["binarise"], "seed": recorded["seed"], "folder": folder}
    options["mask"] = recorded.get("mask", "none")
    options["labels"] = recorded.get("labels") if data is None else None
    options |= {name: recorded[name] for name in ("validation", "test") if name in recorded}
    options |= _reading(Schema.from_record(recorded.get("schema", {})), reading or {}, own=data is None)
    try:
        splits = load_data(source, **options)
        if data is None and splits.checksum != recorded["checksum"]:
            splits = load_data(source, **options | {"validation": recorded["sizes"]["validation"]})
    except InputError as error:
        if data is not None:
            raise
        raise InputError(f"The run was trained on {recorded['name']!r}: {error} Name the data with --data.") from error
    if data is None:
        _check_checksum(splits, source, recorded, run.folder)
    print_reading(splits)
    dtype = torch.float64 if run.config["training"]["precision"] == "float64" else torch.float32
    return splits.map_data(partial(narrowed, dtype=dtype))


def whole_data_for_run(
    run: Run,
    source: str,
    folder: str | None,
    reading: Mapping[str, Any],
    *,
    missing: bool = False,
    labels: bool = True,
) -> Splits:
    """Return all data of a file in order, as the training split, with the columns and labels of a run's training.

    Args:
        run: an opened run.
        source: a file, or the name of a data set, whose training split it is then.
        folder: the first place to look for it.
        reading: how a file is read, as options of `load_data`; the others are those of the run.
        missing: whether missing values are allowed although the training had none.
        labels: whether the labels of the data are used; otherwise they are left out.

    Raises:
        InputError: if the data cannot be loaded, or have other columns.
    """
    from pvae.data import Schema, load_data
    from pvae.train.data_for_run import RunForm

    form = RunForm(run.config["data"], run.config["training"]["precision"])
    schema = Schema.from_record(run.config["data"].get("schema", {})).changed(ignores_labels=not labels)
    options = _reading(schema, reading, own=False)
    if missing or form.takes_mask:
        options.setdefault("missing", "mask")
    splits = load_data(source, folder=folder, binarise="none", validation=0, test=0, **options)
    print_reading(splits)
    return splits


def _reading(schema: Schema, given: Mapping[str, Any], *, own: bool) -> dict[str, Any]:
    """Return the options of `load_data` that bring a file into the form of the training data.

    Args:
        schema: the schema of the training data.
        given: the options that the user gives.
        own: whether the file is that of the training, which is read as it was then.
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


def _check_checksum(splits: Splits, source: str, recorded: dict[str, Any], folder: Any) -> None:
    if splits.checksum != recorded["checksum"]:
        raise InputError(
            f"The data {source} have changed since {folder} was trained: their checksum is "
            f"{splits.checksum[:12]}..., the recorded one is {recorded['checksum'][:12]}.... "
            "Name the data with --data to use the changed data."
        )


def require_split(splits: Splits, name: str) -> Batch:
    """Return one split.

    Args:
        splits: the data.
        name: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        InputError: if the data have no split of that name.
    """
    batch = splits.parts[name]
    if batch is None:
        known = ", ".join(known for known, part in splits.parts.items() if part is not None)
        raise InputError(f"{splits.name} has no {name} split; it has {known}. Choose one with --split.")
    return batch
