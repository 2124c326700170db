"""The data of a run, found again from what its folder records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pvae.errors import InputError

if TYPE_CHECKING:
    from pvae.batch import Batch
    from pvae.data import Splits
    from pvae.train import Run

__all__ = ["data_of_run", "split_of"]


def data_of_run(run: Run, data: str | None = None, folder: str | None = None) -> Splits:
    """Return the data that a run was trained on, in the same splits and binarised alike; or other data.

    Args:
        run: an opened run.
        data: a name or a file, where the run's own data are not meant or lie elsewhere now.
        folder: looked into for named data, before ``$PVAE_DATA`` and the cache.

    Raises:
        InputError: if the run's own data are not to be had any more, or are not what they were.
    """
    from pvae.data import load_data

    recorded = run.config["data"]
    source, sizes = data or recorded["name"], recorded["sizes"]
    options = {"binarise": recorded["binarise"], "seed": recorded["seed"], "folder": folder}
    options["mask"] = recorded.get("mask", "none")
    options["labels"] = recorded.get("labels") if data is None else None
    try:
        found = load_data(source, **options)
        if data is None and found.checksum != recorded["checksum"]:
            found = load_data(source, validation=sizes["validation"], **options)
    except InputError as error:
        raise InputError(f"The run was trained on {recorded['name']!r}: {error} Name the data with --data.") from error
    if data is None and found.checksum != recorded["checksum"]:
        raise InputError(
            f"{source} is not what it was when {run.folder} was trained (checksum {found.checksum[:12]}..., "
            f"recorded {recorded['checksum'][:12]}...). Name the data with --data, to use others on purpose."
        )
    return found


def split_of(splits: Splits, name: str) -> Batch:
    """Return one split.

    Raises:
        InputError: if the data have none of that name.
    """
    batch = splits.parts[name]
    if batch is None:
        known = ", ".join(each for each, part in splits.parts.items() if part is not None)
        raise InputError(f"{splits.name} has no {name} split; it has {known}.")
    return batch
