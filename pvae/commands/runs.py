"""Load the data of a run again from the record in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvae.commands.output import print_reading, print_status

if TYPE_CHECKING:
    from pvae.batch import Batch
    from pvae.data import Splits
    from pvae.train import Run

__all__ = ["data_of_run", "open_named_run", "require_split", "require_unused_folder", "whole_data_for_run"]


def open_named_run(folder: str, checkpoint: str, model: str | None = None, *, trust: bool) -> Run:
    """Open the run that a command names; lines say which code runs by ``--trust``, and what has changed since.

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
    from pvae.train.run_record import changes_since_training

    if trust and model is None:
        code = code_of_run(read_config(Path(folder)))
        if code:
            print_status(f"Trusted: running the code of {code}, which {folder} names as its model.")
    run = open_run(folder, model, checkpoint, trust=trust)
    for change in changes_since_training(run.model, run.config):
        print_status(f"Note: {change}.")
    return run


def data_of_run(
    run: Run, data: str | None = None, folder: str | None = None, reading: Mapping[str, Any] | None = None
) -> Splits:
    """Return the data that a run was trained on, or other data, and print how a file was read.

    Args:
        run: an opened run.
        data: name or file of other data, or of the run's own data if they have moved.
        folder: searched for named data before ``$PVAE_DATA`` and the cache.
        reading: how a file is read, as options of `load_data`; the others are those of the run.

    Raises:
        InputError: if the run's own data cannot be loaded any more, or have changed since the training.
    """
    from pvae.train import run_data

    splits = run_data.data_of_run(run.config, data, folder, reading, advice="Name the data with --data.")
    print_reading(splits)
    return splits


def whole_data_for_run(
    run: Run,
    source: str,
    folder: str | None,
    reading: Mapping[str, Any],
    *,
    missing: bool,
    labels: bool,
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
    from pvae.train.run_data import reading_like

    form = RunForm(run.config["data"], run.config["training"]["precision"])
    schema = Schema.from_record(run.config["data"].get("schema", {})).changed(ignores_labels=not labels)
    options = reading_like(schema, reading, own=False)
    if missing or form.takes_mask:
        options.setdefault("missing", "mask")
    splits = load_data(source, folder=folder, binarise="none", validation=0, test=0, **options)
    print_reading(splits)
    return splits


def require_split(splits: Splits, name: str) -> Batch:
    """Return one split.

    Args:
        splits: the data.
        name: ``"train"``, ``"validation"`` or ``"test"``.

    Raises:
        InputError: if the data have no split of that name.
    """
    from pvae.train import run_data

    return run_data.require_split(splits, name, "Choose one with --split.")


def require_unused_folder(folder: str | Path) -> None:
    """Raise InputError if a folder for a new run is in use, before anything is read or computed.

    Args:
        folder: the folder.
    """
    from pvae.errors import InputError
    from pvae.locks import is_unused

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or not is_unused(folder)):
        raise InputError(f"{folder} exists already, and was not changed. Name another folder with --out.")
