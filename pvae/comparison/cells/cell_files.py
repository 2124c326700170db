"""The files of a cell: its options, its scores and pointwise values, and the check of an existing folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pvae.comparison.base import Cell, Outcome
from pvae.comparison.cells.plan import Job
from pvae.comparison.cells.scored_data import SCORED_DATA
from pvae.errors import InputError
from pvae.files import write_bytes, write_text
from pvae.json_values import json_value
from pvae.locks import is_unused
from pvae.names import short_label
from pvae.outside_files import check_form, read_json, read_limited
from pvae.train.encoding import canonical, digest

__all__ = [
    "check_folder",
    "read_finished",
    "read_outcome",
    "write_arrays",
    "write_config",
    "write_evaluation",
]

_MOST_DIFFERENCES = 4  # in an error message
_MOST_BYTES_OF_JSON = 2**25
_MOST_BYTES_OF_TENSORS = 2**30  # if the size is not recorded

# Keys of ``evaluation.json``: the checksums and sizes of the other files, and the checksum of the other keys. The file
# with the options of a cell has the last key too.
_FILES, _SIZES, _CHECKSUM = "files", "sizes", "sha256"
# The checksum of the options of the cell.
_OPTIONS = "options"

_MOST_DIMENSIONS = 4  # of an array for a picture: data, channels, height, width

_NUMBER = (int, float, type(None))
_MAPPINGS = (
    "log_evidence",
    "bias",
    "elbo",
    "summed_out_elbo",
    "gap",
    "khat",
    "ess",
    "annealing",
    "importance_sampling",
    "membership",
)
_FORM = {
    "cell": {"model": str, "objective": str, "seed": int},
    **{f"{name}?": (dict, type(None)) for name in _MAPPINGS},
    **{f"{name}?": _NUMBER for name in ("active_units", "epochs", "training_seconds", "decoder_evaluations", "data")},
    "notes?": [str],
    f"{_OPTIONS}?": str,
    f"{SCORED_DATA}?": (dict, type(None)),
    _FILES: {"*": str},
    f"{_SIZES}?": {"*": int},
    _CHECKSUM: str,
}


def check_folder(folder: Path, jobs: Sequence[Job]) -> dict[str, str]:
    """Raise InputError if a folder has other content than these cells, before anything is written.

    Args:
        folder: the folder of the comparison.
        jobs: the cells that will run in it.

    Returns:
        The reason for each cell that cannot run because the record of its options is damaged or missing, by the label
        of the cell.

    Raises:
        InputError: if the folder does not belong to a comparison, if a cell in it has other options (the message names
            them), or if no cell can run.
    """
    if folder.exists() and not _may_hold_comparison(folder):
        raise InputError(
            f"{folder} exists and is not the folder of a comparison. Give another folder for out; nothing was changed."
        )
    damages: dict[str, str] = {}
    for job in jobs:
        try:
            config = _read_config(job.cell)
        except InputError as error:
            damages[job.cell.label] = str(error)
            continue
        different = [] if config is None else _list_differences(config, _through_json(job.cell.config))
        if different:
            raise InputError(
                f"{folder} has the cell {job.cell.label} with other options "
                f"({'; '.join(different[:_MOST_DIFFERENCES])})."
                " Give another folder for out, or the same options; nothing was changed."
            )
    if len(damages) == len(jobs):
        raise InputError(f"{next(iter(damages.values()))}.")
    return damages


def _may_hold_comparison(folder: Path) -> bool:
    return folder.is_dir() and (is_unused(folder) or (folder / "cells").is_dir())


def _read_config(cell: Cell) -> dict[str, Any] | None:
    """Return the options in the file of a cell, or None if the cell is new.

    Raises:
        InputError: if the file is damaged, or if there is a run without a file.
    """
    if not cell.record.exists():
        if cell.folder.exists():
            raise InputError(f"{cell.folder} has no options in {cell.record}. Remove it, or give another out")
        return None
    try:
        config = read_json(cell.record, _MOST_BYTES_OF_JSON)
        check_form(cell.record, config, dict)
        expected = config.pop(_CHECKSUM, None)
        if expected is not None and _checksum_of_options(config) != expected:
            raise InputError(f"{cell.record} is damaged: its checksum does not match its content.")
    except InputError as error:
        raise InputError(f"{error} Remove it together with its run {cell.folder}, or give another out") from error
    return dict(config)


def _through_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in the form that is read from a file, in which a tuple is a list."""
    return dict(json.loads(json.dumps(config)))


def _checksum_of_options(config: Mapping[str, Any]) -> str:
    """Return the checksum of options in the form that is read from a file; numbers may be infinite."""
    return digest(json.dumps(config, sort_keys=True).encode())


def _list_differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Return a line for each option with different values; the keys of nested options are joined by spaces."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [f"{name} was {old!r}, now {new!r}"]
    lines = []
    for key in dict.fromkeys([*old, *new]):
        lines += _list_differences(old.get(key), new.get(key), f"{name} {key}".strip())
    return lines


def write_config(cell: Cell) -> None:
    """Write the options of a cell, before it starts."""
    cell.record.parent.mkdir(parents=True, exist_ok=True)
    config = _through_json(cell.config)
    write_text(cell.record, json.dumps({**config, _CHECKSUM: _checksum_of_options(config)}, indent=1))


def read_finished(cell: Cell) -> Outcome | None:
    """Return the outcome of a cell that was evaluated before. Each of its files is read and checked once.

    If a file is damaged, the outcome has the failure that `read_outcome` describes. None means that there is no
    evaluation yet.
    """
    return read_outcome(cell) if cell.evaluation.exists() else None


def write_evaluation(cell: Cell, scores: Mapping[str, Any], pointwise: Mapping[str, Tensor]) -> None:
    """Write the pointwise values, then the scores. A cell with both files is done.

    Args:
        cell: the cell.
        scores: numbers that JSON can hold.
        pointwise: one number for each test datum, shape (data,).
    """
    values = {name: tensor.detach().cpu().double().contiguous() for name, tensor in pointwise.items()}
    write_bytes(_pointwise_path(cell), save(values))
    names = {"cell": _names(cell), _OPTIONS: _checksum_of_options(_through_json(cell.config))}
    contents = {path.name: path.read_bytes() for path in (_pointwise_path(cell), _arrays_path(cell)) if path.exists()}
    sums = {_FILES: {name: digest(content) for name, content in contents.items()}}
    sizes = {_SIZES: {name: len(content) for name, content in contents.items()}}
    content = json_value({**names, **scores, **sums, **sizes})
    write_text(cell.evaluation, json.dumps({**content, _CHECKSUM: digest(canonical(content))}, indent=1))


def read_outcome(cell: Cell) -> Outcome:
    """Return the outcome of a finished cell from its files; a file that is damaged is a failure of the cell."""
    try:
        scores = _read_scores(cell)
        tensors = {name: _read_tensors(cell.evaluation.with_name(name), scores) for name in scores[_FILES]}
        pointwise = tensors.pop(_pointwise_path(cell).name)
        arrays = tensors.get(_arrays_path(cell).name, {})
        _check_pointwise(_pointwise_path(cell), pointwise, scores)
        _check_arrays(_arrays_path(cell), arrays, pointwise)
    except KeyError as error:
        return Outcome(cell, failure=f"{cell.evaluation} is damaged: it does not name {error}")
    except InputError as error:
        return Outcome(cell, failure=str(error).rstrip("."))
    return Outcome(cell, scores, pointwise, arrays=arrays)


def _read_scores(cell: Cell) -> dict[str, Any]:
    """Return the content of ``evaluation.json`` after a check of its checksum, its form and its cell.

    Raises:
        InputError: if the file cannot be read, or differs from what was written.
    """
    path = cell.evaluation
    scores = read_json(path, _MOST_BYTES_OF_JSON)
    check_form(path, scores, {_CHECKSUM: str, _FILES: dict})
    expected = scores.pop(_CHECKSUM)
    try:
        is_intact = digest(canonical(scores)) == expected
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}).") from error
    if not is_intact:
        raise InputError(f"{path} is damaged: its checksum does not match its content.")
    check_form(path, {**scores, _CHECKSUM: expected}, _FORM)
    _check_curves(path, scores)
    elsewhere = scores[_FILES].keys() - {_pointwise_path(cell).name, _arrays_path(cell).name}
    if elsewhere:
        raise InputError(f"{path} is damaged: it names {short_label(min(elsewhere))} as a file of the evaluation.")
    if scores["cell"] != _names(cell):
        raise InputError(f"{path} is damaged: it is the evaluation of another cell, {scores['cell']}.")
    if scores.get(_OPTIONS, options := _checksum_of_options(_through_json(cell.config))) != options:
        raise InputError(f"{path} is damaged: it is the evaluation of a training with other options.")
    return dict(scores)


def _check_curves(path: Path, scores: Mapping[str, Any]) -> None:
    """Raise InputError unless the learning curves are lists of points: epoch, value, seconds, perhaps evaluations."""
    for name in [name for name, value in scores.items() if name.endswith("curve") and value is not None]:
        check_form(path, scores[name], [[_NUMBER]], name)
        if not all(3 <= len(point) <= 4 for point in scores[name]):
            raise InputError(f"{path} is damaged: {name} needs points of 3 or 4 numbers.")


def _check_pointwise(path: Path, pointwise: Mapping[str, Tensor], scores: Mapping[str, Any]) -> None:
    """Raise InputError unless there is one number for each datum, and the log evidence is among them."""
    estimate = scores.get("log_evidence")
    if estimate and "log_evidence" not in pointwise:
        raise InputError(f"{path} is damaged: it has no log_evidence.")
    if any(values.dim() != 1 or values.dtype != torch.float64 for values in pointwise.values()):
        raise InputError(f"{path} is damaged: it needs one number of 64 bits for each datum.")
    counts, count = {len(values) for values in pointwise.values()}, estimate.get("count") if estimate else None
    if len(counts) > 1 or (count is not None and counts != {count}):
        raise InputError(f"{path} is damaged: it has {sorted(counts)} values, but the evaluation is of {count} data.")


def _check_arrays(path: Path, arrays: Mapping[str, Tensor], pointwise: Mapping[str, Tensor]) -> None:
    """Raise InputError unless the arrays of the pictures can be drawn, and name data that were evaluated."""
    for name, array in arrays.items():
        if array.is_complex() or not 1 <= array.dim() <= _MOST_DIMENSIONS:
            raise InputError(f"{path} is damaged: {short_label(name)} is not an array that can be drawn.")
    places, most = arrays.get("worst_places"), max(map(len, pointwise.values()), default=0)
    if places is not None and (places.dim() != 1 or not all(0 <= place < most for place in places.tolist())):
        raise InputError(f"{path} is damaged: its worst_places are not places of the {most} evaluated data.")


def _read_tensors(path: Path, scores: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a file from the bytes that are checked; raise InputError if the file has changed."""
    content = read_limited(path, scores.get(_SIZES, {}).get(path.name, _MOST_BYTES_OF_TENSORS))
    if digest(content) != scores[_FILES][path.name]:
        raise InputError(f"{path} is damaged: its checksum differs from the recorded one.")
    try:
        return load(content)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged: it is not a safetensors file ({error}).") from error


def _names(cell: Cell) -> dict[str, Any]:
    return {"model": cell.model, "objective": cell.objective, "seed": cell.seed}


def write_arrays(cell: Cell, arrays: Mapping[str, Tensor]) -> None:
    """Write the arrays for the pictures of a cell; without arrays there is no file.

    Args:
        cell: the cell.
        arrays: tensors of any shape by name.
    """
    if arrays:
        write_bytes(_arrays_path(cell), save(dict(arrays)))


def _pointwise_path(cell: Cell) -> Path:
    return cell.evaluation.with_suffix(".safetensors")


def _arrays_path(cell: Cell) -> Path:
    return cell.folder / "drawings.safetensors"
