"""The function `load_data`, which turns a name, a path or arrays into training, validation and test data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pvae.batch import as_batch
from pvae.data.binarise import check_binarise
from pvae.data.data_source import DataSource, draw_splits, source_of
from pvae.data.downloads import data_set, fetch_contents
from pvae.data.labels import check_labels
from pvae.data.nan_to_mask import check_missing, masked
from pvae.data.readers import SUFFIXES, read_arrays
from pvae.data.splits import Splits
from pvae.errors import InputError

__all__ = ["load_data"]


def load_data(
    source: Any,
    *,
    binarise: str = "auto",
    validation: float | None = None,
    test: float | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    missing: str = "error",
    mask: str = "none",
    labels: int | None = None,
) -> Splits:
    """Return data as training, validation and test splits, which depend on the seed alone.

    Args:
        source: the name of a data set (one of ``data_names()``); the path of an ``.npz`` file, whose arrays are named
            as the fields of a batch (``x_test`` and the like bring a split of their own), or of a ``.npy``, ``.csv``
            or IDX file; an array or tensor; a pair (``x``, ``y``); a mapping from names to arrays; or `Splits`.
        binarise: ``"none"``; ``"static"``, which draws {0, 1} from grey levels once; ``"dynamic"``, which draws the
            training split at every use; ``"threshold"``, which cuts at 0.5; or ``"auto"``, which is static, with a
            note, for grey data under a Bernoulli likelihood, and none otherwise.
        validation: size of the validation split, as a fraction of the data that are not test data, or as a count; 0
            for no split. By default the split of the data set itself, 10000 data of MNIST, otherwise a tenth.
        test: size of the test split, as a fraction of all data or as a count; 0 for no split. By default the split of
            the data set itself, otherwise a tenth (a fifth of the digits).
        seed: decides which data belong to which split, and what a binarisation draws.
        folder: the first place to look for a named data set, before ``$PVAE_DATA`` and the cache; and the folder that
            a relative path starts from.
        missing: ``"mask"`` takes NaN in ``x``, and empty cells of a ``.csv`` file, as missing values, which are 0 in
            ``x`` and in the field ``mask``. ``"error"`` refuses them.
        mask: the entries of ``x`` that the field ``mask`` leaves out at random: ``"pixels:share=0.5"`` each entry with
            this probability, ``"block:size=14"`` a square, ``"rows:count=14"`` rows, ``"quadrants:observed=1"`` all
            but some quadrants. Without a setting, half of the side or of the rows are left out. The training split
            is drawn at every use; the seed fixes the draw of the others. ``x`` itself stays complete.
        labels: number of training data that keep their label ``y``, equally many of each class; the others get -1,
            which hides their label. 0 hides all. The seed decides which data keep theirs. Validation and test data
            keep their labels.

    Raises:
        InputError: if the source is unknown, missing or damaged, or an option does not fit the data.
    """
    check_binarise(binarise)
    check_missing(missing)
    check_labels(labels)
    if isinstance(source, Splits):
        return _change_splits(source, binarise, validation, test, mask).with_labels(labels)
    read = _read_source(source, folder, missing == "mask")
    splits = draw_splits(read, validation=validation, test=test, seed=seed)
    return splits.binarised(binarise).masked(mask).with_labels(labels)


def _read_source(source: Any, folder: str | os.PathLike[str] | None, nan_is_missing: bool) -> DataSource:
    if isinstance(source, str | os.PathLike):
        if not _is_path(source):
            known = data_set(str(source))
            return known.read(*fetch_contents(str(source), folder))
        path = Path(folder or "", source).expanduser()
        arrays = read_arrays(path, empty_cells=nan_is_missing)
        return source_of(path.name, masked(arrays) if nan_is_missing else arrays)
    if isinstance(source, dict) or hasattr(source, "keys"):
        return source_of("the data", masked(source) if nan_is_missing else dict(source))
    if nan_is_missing:
        is_pair = isinstance(source, tuple) and len(source) == 2
        source = masked({"x": source[0], "y": source[1]} if is_pair else {"x": source})
    return source_of("the data", as_batch(source))


def _is_path(source: str | os.PathLike[str]) -> bool:
    if not isinstance(source, str):
        return True
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    has_folder = any(separator in source for separator in separators)
    return has_folder or source.lower().endswith((*SUFFIXES, ".gz"))


def _change_splits(splits: Splits, binarise: str, validation: float | None, test: float | None, mask: str) -> Splits:
    """Return splits that are loaded already with a mask and a binarisation, if they had none."""
    if validation is not None or test is not None:
        raise InputError("These data are split already; give validation and test where the data are first loaded.")
    if mask != "none":
        if splits.mask != "none":
            raise InputError(f"These data are masked already ({splits.mask!r}); load them again for {mask!r}.")
        splits = splits.masked(mask)
    if binarise in ("auto", splits.binarise):
        return splits
    if splits.binarise not in ("auto", "none"):
        raise InputError(f"These data are binarised already ({splits.binarise!r}); load them again for {binarise!r}.")
    return splits.binarised(binarise)
