"""``load_data``: a name, a path or arrays become splits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pvae.batch import as_batch
from pvae.data.binarise import check_binarise
from pvae.data.downloads import data_set, fetch_contents
from pvae.data.labels import check_labels
from pvae.data.missing import check_missing, masked
from pvae.data.sources import SUFFIXES, read_arrays
from pvae.data.splits import Splits
from pvae.data.splitting import Source, source_of, split
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
    """Return data as training, validation and test splits that depend on the seed alone.

    Args:
        source: the name of a set (``data_names()``), the path of an ``.npz`` (arrays named as batch fields;
            ``x_test`` and the like bring a split), ``.npy``, ``.csv`` or IDX file, an array or tensor, a pair
            (``x``, ``y``), a mapping from field to array, or Splits.
        binarise: ``"none"``; ``"static"`` draws {0, 1} from grey levels once; ``"dynamic"`` draws the
            training split at every use; ``"threshold"`` cuts at 0.5; ``"auto"`` is static for a Bernoulli
            likelihood on grey data and says so, else none.
        validation: fraction of what the test split leaves, or count; 0 for none. By default the set's
            own, 10000 of MNIST, else a tenth.
        test: fraction of all data, or count; 0 for none. By default the set's own, else a tenth (digits:
            a fifth).
        seed: decides which data go where, and what a binarisation draws.
        folder: looked into before ``$PVAE_DATA`` and the cache; a relative path is taken from here.
        missing: ``"mask"`` takes NaN in ``x``, and empty cells of a ``.csv`` file, as missing values: 0 stands there,
            in ``x`` and in the field ``mask``. ``"error"`` refuses them.
        mask: entries of ``x`` that the field ``mask`` leaves out at random: ``"pixels:share=0.5"`` each entry with
            this probability, ``"block:size=14"`` a square, ``"rows:count=14"``, or all but some quadrants,
            ``"quadrants:observed=1"``; without a setting, half of the side and of the rows. Drawn at every use in
            training, fixed by the seed elsewhere. ``x`` itself stays complete.
        labels: how many training data keep their label ``y``, as many of each class as of any other; the others get
            -1, which hides it, and 0 hides all. The seed decides which. Validation and test labels stay.

    Raises:
        InputError: if the source is unknown, missing, damaged or unfit, in one line.
    """
    check_binarise(binarise)
    check_missing(missing)
    check_labels(labels)
    if isinstance(source, Splits):
        return _again(source, binarise, validation, test, mask).with_labels(labels)
    parted = split(_source(source, folder, missing == "mask"), validation=validation, test=test, seed=seed)
    return parted.binarised(binarise).masked(mask).with_labels(labels)


def _source(source: Any, folder: str | os.PathLike[str] | None, holes: bool) -> Source:
    if isinstance(source, str | os.PathLike):
        if not _is_path(source):
            known = data_set(str(source))
            return known.read(*fetch_contents(str(source), folder))
        path = Path(folder or "", source).expanduser()
        arrays = read_arrays(path, holes=holes)
        return source_of(path.name, masked(arrays) if holes else arrays)
    if isinstance(source, dict) or hasattr(source, "keys"):
        return source_of("the data", masked(source) if holes else dict(source))
    if holes:
        pair = isinstance(source, tuple) and len(source) == 2
        source = masked({"x": source[0], "y": source[1]} if pair else {"x": source})
    return source_of("the data", as_batch(source))


def _is_path(source: str | os.PathLike[str]) -> bool:
    if not isinstance(source, str):
        return True
    separators = [each for each in (os.sep, os.altsep) if each]
    return any(each in source for each in separators) or source.lower().endswith((*SUFFIXES, ".gz"))


def _again(splits: Splits, binarise: str, validation: float | None, test: float | None, mask: str) -> Splits:
    if validation is not None or test is not None:
        raise InputError("These data are split already; give validation and test where they are first loaded.")
    if mask != "none":
        if splits.mask != "none":
            raise InputError(f"These data are masked already ({splits.mask!r}); load them again for {mask!r}.")
        splits = splits.masked(mask)
    if binarise in ("auto", splits.binarise):
        return splits
    if splits.binarise not in ("auto", "none"):
        raise InputError(f"These data are binarised already ({splits.binarise!r}); load them again for {binarise!r}.")
    return splits.binarised(binarise)
