"""The data of a run, loaded again from what its folder records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pvae.errors import InputError

if TYPE_CHECKING:
    from pvae.batch import Batch
    from pvae.data import Splits
    from pvae.train import Run

__all__ = ["data_of_run", "require_split"]


def data_of_run(run: Run, data: str | None = None, folder: str | None = None) -> Splits:
    """Return the data that a run was trained on, with the same splits and binarisation; or other data.

    Args:
        run: an opened run.
        data: name or file of other data, or of the run's own data if they have moved.
        folder: searched for named data before ``$PVAE_DATA`` and the cache.

    Raises:
        InputError: if the run's own data cannot be loaded any more, or have changed since the training.
    """
    from pvae.data import load_data

    recorded = run.config["data"]
    source = data or recorded["name"]
    options = {"binarise": recorded["binarise"], "seed": recorded["seed"], "folder": folder}
    options["mask"] = recorded.get("mask", "none")
    options["labels"] = recorded.get("labels") if data is None else None
    try:
        splits = load_data(source, **options)
        if data is None and splits.checksum != recorded["checksum"]:
            splits = load_data(source, validation=recorded["sizes"]["validation"], **options)
    except InputError as error:
        raise InputError(f"The run was trained on {recorded['name']!r}: {error} Name the data with --data.") from error
    if data is None:
        _check_checksum(splits, source, recorded, run.folder)
    return splits


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
