"""The function `load_data`, which turns a name, a path or an object into training, validation and test data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pvae.checks import require_whole
from pvae.data.binarise import check_binarise
from pvae.data.channels import with_channels_first
from pvae.data.conform import conformed, in_order_of, options_like
from pvae.data.containers import read_object
from pvae.data.data_source import DataSource, draw_splits, source_of
from pvae.data.downloads import data_set, fetch_contents
from pvae.data.file_data import SUFFIXES, read_path
from pvae.data.label_values import number_labels
from pvae.data.labels import check_labels
from pvae.data.nan_to_mask import check_missing, masked
from pvae.data.raw_data import RawData
from pvae.data.scaling import check_scale, find_scaling
from pvae.data.schema import Schema
from pvae.data.split_sources import is_mapping_of_parts, join_parts
from pvae.data.splits import Splits
from pvae.data.streams.opening import open_stored
from pvae.data.tables.table_options import TableOptions
from pvae.errors import InputError
from pvae.forked_threads import require_usable_threads
from pvae.structures import require_dense

__all__ = ["is_path", "load_data"]


def load_data(
    source: Any,
    *,
    binarise: str = "auto",
    validation: float | None = None,
    test: float | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    missing: str | Sequence[str] = "error",
    mask: str = "none",
    labels: int | None = None,
    separator: str | None = None,
    header: str | bool | None = None,
    index: str | Sequence[str] | None = None,
    columns: str | Sequence[str] | None = None,
    label: str | None = None,
    categories: str | Sequence[str] | None = None,
    channels: str = "auto",
    standardise: bool = False,
    scale: str = "none",
    like: Splits | Schema | None = None,
    resident: bool | None = None,
) -> Splits:
    """Return data as training, validation and test splits, which depend only on the seed.

    `Splits.describe` shows how the data were read, and `Splits.schema` has their names, types and labels.

    Args:
        source: the name of a data set (one of ``data_names()``); the path of an ``.npz``, ``.mat`` or HDF5 file with
            arrays that are named like the fields of a batch (``x_test`` and similar names belong to other splits), of a
            ``.npy`` or IDX file, of a text table (``.csv``, ``.tsv``, ``.txt``, also with ``.gz``) or a Parquet file,
            of a folder of pictures, or of files of arrays with some of the data each; an array or tensor; a list of
            rows; a pair (``x``, ``y``); a mapping from names to arrays; a data frame, structured or masked array,
            sparse matrix, memory map, array of xarray, object of h5py or AnnData; a data set or loader of PyTorch; a
            mapping from ``"train"``, and maybe ``"validation"`` and ``"test"``, to any of these; or `Splits`.
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
        missing: ``"mask"`` takes NaN, masked values, and in tables empty cells and words such as NA, as missing
            values, which are 0 in ``x`` and in the field ``mask``; in a further field ``w`` of arrays, NaN become 0 in
            ``w`` and in the field ``w_mask``. Another text, such as ``"?,-9"``, lists the words of a table that mean a
            missing value. With ``"error"``, missing values are an error.
        mask: the entries of ``x`` that the field ``mask`` leaves out at random: ``"pixels:share=0.5"`` each entry with
            this probability, ``"block:size=14"`` a square, ``"rows:count=14"`` rows, ``"quadrants:observed=1"`` all
            but some quadrants. Without a setting, half of the side or of the rows are left out. The mask of the
            training split is drawn at every use; the seed fixes the masks of the other splits. ``x`` itself stays
            complete.
        labels: number of training data that keep their label ``y``, with the same number for each class; other labels
            become -1, which means hidden. 0 hides all. The seed decides which data keep their label. Validation and
            test data keep their labels.
        separator: the character between the cells of a text table; inferred by default.
        header: ``"first"`` if the first line of a text table has the names of its columns, ``"none"`` if it has data;
            inferred by default. If both are possible, an error names this option.
        index: the columns of a table that name its rows and are left out, or ``"none"``. By default it is a first
            column without a name that numbers or names the rows.
        columns: the columns of a table that are features; by default all but the label and the names of the rows.
        label: the column of a table that is ``y``, or ``"none"``. By default it is a column called label, target, class
            or y, if it has few values and these are not real numbers. If there is also a column x, a column y is a
            coordinate.
        categories: columns of a table that become one feature of 0 and 1 for each of their values.
        channels: ``"last"`` changes pictures (height, width, channels) to (channels, height, width), ``"first"`` does
            not change them; ``"auto"`` changes them, with a note, if their last size is 1, 3 or 4 and their first is
            not.
        standardise: whether each feature gets mean 0 and standard deviation 1 in the training data.
        scale: ``"minmax"`` scales each feature to [0, 1] by the training data; ``"standardise"``; or ``"none"``.
        like: earlier data, or their schema: these data get the same columns in the same order, the same numbers for
            the same labels, and the same scaling.
        resident: whether all data are read into memory. With False, memory maps, ``.npy`` files, folders of files of
            arrays, and data sets and loaders of PyTorch are not read at first, and each batch is read when it is
            needed. By default this holds for files that need more than half of the free memory, and for all data sets
            and loaders of PyTorch, because their transforms may draw.

    Raises:
        InputError: if the source is unknown, missing or damaged, or an option does not fit the data.

    Example:
        >>> import pvae, torch
        >>> x, y = torch.eye(4).repeat(10, 1), torch.arange(40) % 4
        >>> data = pvae.load_data({"x": x, "y": y}, validation=4, test=6)
        >>> data.train.size, data.validation.size, data.test.size
        (30, 4, 6)
        >>> data.train["x"].shape, data.train["y"].shape
        (torch.Size([30, 4]), torch.Size([30]))
    """
    seed = require_whole(seed, "seed", least=0)
    check_binarise(binarise)
    check_labels(labels)
    require_usable_threads()
    kind = check_scale(standardise, scale)
    schema = like.schema if isinstance(like, Splits) else like
    given = {"separator": separator, "header": header, "index": index, "columns": columns, "label": label}
    options = TableOptions.of(missing, {**given, "categories": categories})
    if isinstance(source, Splits):
        options.refuse_for("data that are loaded already")
        changed = source if schema is None else conformed(source, schema)
        changed = changed if kind == "none" else changed.scaled(kind)
        return _change_splits(changed, binarise, validation, test, mask).with_labels(labels)
    read = partial(_read_source, folder=folder, options=options, channels=channels, like=schema, resident=resident)
    if is_mapping_of_parts(source):
        splits = join_parts({part: read(each) for part, each in source.items()}, validation, test, seed)
    else:
        splits = draw_splits(read(source), validation=validation, test=test, seed=seed)
    if schema is not None and schema.scaling is not None:
        splits = splits.scaled_by(schema.scaling)
    elif kind != "none":
        splits = splits.scaled_by(find_scaling(kind, splits.train))
    if isinstance(source, str | os.PathLike) and is_path(source):
        splits = replace(splits, path=os.path.abspath(Path(folder or "", source).expanduser()))
    return splits.binarised(binarise).masked(mask).with_labels(labels)


def _read_source(
    source: Any,
    *,
    folder: str | os.PathLike[str] | None,
    options: TableOptions,
    channels: str,
    like: Schema | None,
    resident: bool | None,
) -> DataSource:
    """Return the data of a name, path or object, before they are split."""
    if isinstance(source, str) and not is_path(source):
        known = data_set(source)
        options.refuse_for(f"the data set {source}")
        return known.read(*fetch_contents(source, folder))
    options = options_like(options, like)
    is_file = isinstance(source, str | os.PathLike)
    source = Path(folder or "", source).expanduser() if is_file else source
    stored = open_stored(source, options, channels, like, resident)
    if stored is not None:
        return stored
    raw = read_path(source, options) if is_file else read_object(source, options)
    if "x" in raw.fields:
        raw = raw if like is None else in_order_of(raw, like)
    prepared = _prepared(raw, options, channels, like)
    return replace(prepared, is_own=is_file and _is_writeable(raw.fields.get("x")))


def _prepared(raw: RawData, options: TableOptions, channels: str, like: Schema | None) -> DataSource:
    """Return data with channels first, labels numbered and missing values masked."""
    if not raw.schema.rows:
        check_missing("error" if not options.missing else "mask" if options.words is None else ",".join(options.words))
    for name, value in raw.fields.items():
        require_dense(name, value)
    fields, channel_notes = with_channels_first(raw.fields, channels)
    fields, label_notes = _without_labels(fields) if like is not None and like.ignores_labels else (fields, ())
    if options.missing:
        fields = {name: _without_masked_array(name, value) for name, value in fields.items()}
    numbered = number_labels(
        fields,
        classes=None if like is None else like.classes,
        hidden_allowed=options.missing,
    )
    fields = masked(numbered.fields) if options.missing else numbered.fields
    notes = (*raw.notes, *channel_notes, *label_notes, *numbered.notes)
    schema = raw.schema.changed(
        account="; ".join([*([raw.schema.account] if raw.schema.account else []), *notes]),
        classes=numbered.classes,
        channels=channels if channels != "auto" else "",
        options=options.chosen(),
    )
    return replace(source_of(raw.name, fields, schema, notes), row_names=raw.row_names)


def _without_labels(fields: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return fields without labels, and a note if there were labels."""
    kept = {name: value for name, value in fields.items() if name != "y" and not name.startswith("y_")}
    return kept, ("the labels of these data are not used",) if len(kept) < len(fields) else ()


def _is_writeable(x: Any) -> bool:
    """Return whether x is an array that owns its memory."""
    root = x
    while isinstance(root, np.ndarray) and isinstance(root.base, np.ndarray):
        root = root.base
    return isinstance(root, np.ndarray) and root.flags.owndata and x.flags.writeable


def _without_masked_array(name: str, value: Any) -> Any:
    """Return x with NaN in place of masked values; other fields do not change."""
    if not isinstance(value, np.ma.MaskedArray) or not (name == "x" or name.startswith("x_")):
        return value
    if not np.ma.getmaskarray(value).any():
        return value.data
    floats = value.astype(np.float64)
    if value.dtype.kind in "iu" and bool(np.any(floats.astype(value.dtype) != value)):
        raise InputError(
            f"{name} has whole numbers beyond 2^53, and float64 cannot represent all of them exactly. Numbers of this "
            "size are usually identifiers: leave them out of x."
        )
    return np.ma.filled(floats, np.nan)


def is_path(source: str | os.PathLike[str]) -> bool:
    """Return whether a source is a path and not the name of a data set: it has a folder, or a known suffix."""
    if not isinstance(source, str):
        return True
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    has_folder = any(separator in source for separator in separators)
    return has_folder or source.lower().endswith((*SUFFIXES, ".gz", ".xlsx", ".xls"))


def _change_splits(splits: Splits, binarise: str, validation: float | None, test: float | None, mask: str) -> Splits:
    """Return splits that are loaded already with a mask and a binarisation, if they had none."""
    if validation is not None or test is not None:
        raise InputError("These data are split already. Give validation and test where the data are first loaded.")
    if mask != "none":
        if splits.mask != "none":
            raise InputError(f"These data are masked already ({splits.mask!r}); load them again for {mask!r}.")
        splits = splits.masked(mask)
    if binarise in ("auto", splits.binarise):
        return splits
    if splits.binarise not in ("auto", "none"):
        raise InputError(f"These data are binarised already ({splits.binarise!r}); load them again for {binarise!r}.")
    return splits.binarised(binarise)
