"""The files of a cell: its options, its scores and pointwise values, and the check of a folder that exists already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from pvae.comparison.base import Cell, Outcome
from pvae.comparison.cells.plan import Job
from pvae.errors import InputError
from pvae.files import write_bytes, write_text
from pvae.json_values import json_value
from pvae.locks import is_unused
from pvae.outside_files import read_json, read_limited
from pvae.train.encoding import canonical, digest

__all__ = [
    "check_folder",
    "find_damage",
    "is_done",
    "read_arrays",
    "read_outcome",
    "write_arrays",
    "write_config",
    "write_evaluation",
]

_MOST_DIFFERENCES = 4  # in an error message
_MOST_BYTES = 2**30  # of a file of an evaluation

# Keys of ``evaluation.json``: the checksums of the files beside it, and that of its other content.
_FILES, _CHECKSUM = "files", "sha256"


def check_folder(folder: Path, jobs: Sequence[Job]) -> None:
    """Refuse a folder that holds anything but these cells, before anything is written.

    Args:
        folder: the folder of the comparison.
        jobs: the cells that will run in it.

    Raises:
        InputError: if the folder is not that of a comparison, or a cell in it has other options; the message names
            these.
    """
    if folder.exists() and not _may_hold_comparison(folder):
        raise InputError(f"{folder} exists and holds no comparison; give another folder for out. Nothing was changed.")
    for job in jobs:
        config = _read_config(job.cell)
        if config is None and job.cell.folder.exists():
            raise InputError(f"{job.cell.folder} is a run of something else; give another folder for out.")
        # Through JSON and back, so that tuples and lists compare equal.
        new_config = json.loads(json.dumps(job.cell.config))
        different = [] if config is None else _list_differences(config, new_config)
        if different:
            raise InputError(
                f"{folder} holds {job.cell.label} made with other options ({'; '.join(different[:_MOST_DIFFERENCES])})."
                " Give another folder for out, or the same options; nothing was changed."
            )


def _may_hold_comparison(folder: Path) -> bool:
    return folder.is_dir() and (is_unused(folder) or (folder / "cells").is_dir())


def _read_config(cell: Cell) -> dict[str, Any] | None:
    """Return the options in the file of a cell, or None if there is no file."""
    try:
        config = read_json(cell.record, _MOST_BYTES) if cell.record.exists() else None
    except InputError as error:
        raise InputError(f"{error} Remove it together with its run, or give another folder for out.") from error
    if config is None:
        return None
    return config if isinstance(config, dict) else {}


def _list_differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Return a line for each option whose values differ; the keys of nested options are joined by spaces."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new else [f"{name} was {old!r}, now {new!r}"]
    lines = []
    for key in dict.fromkeys([*old, *new]):
        lines += _list_differences(old.get(key), new.get(key), f"{name} {key}".strip())
    return lines


def write_config(cell: Cell) -> None:
    """Write the options of a cell, before it starts."""
    cell.record.parent.mkdir(parents=True, exist_ok=True)
    write_text(cell.record, json.dumps(cell.config, indent=1))


def is_done(cell: Cell) -> bool:
    """Return whether a cell is trained and evaluated, and its files are intact."""
    return cell.evaluation.is_file() and _pointwise_path(cell).is_file() and not find_damage(cell)


def find_damage(cell: Cell) -> str:
    """Return what is wrong with the evaluation of a cell, with the file; "" if it is intact or not there yet."""
    if not cell.evaluation.exists():
        return ""
    try:
        _read_scores(cell)
    except _DamagedError as error:
        return str(error)
    return ""


def write_evaluation(cell: Cell, scores: Mapping[str, Any], pointwise: Mapping[str, Tensor]) -> None:
    """Write the pointwise values, then the scores. A cell with both files is done.

    Args:
        cell: the cell.
        scores: numbers that JSON can hold.
        pointwise: one number for each test datum, shape (data,).
    """
    values = {name: tensor.detach().cpu().double().contiguous() for name, tensor in pointwise.items()}
    write_bytes(_pointwise_path(cell), save(values))
    names = {"cell": {"model": cell.model, "objective": cell.objective, "seed": cell.seed}}
    files = [path for path in (_pointwise_path(cell), _arrays_path(cell)) if path.exists()]
    sums = {_FILES: {path.name: digest(path.read_bytes()) for path in files}}
    content = json_value({**names, **scores, **sums})
    write_text(cell.evaluation, json.dumps({**content, _CHECKSUM: digest(canonical(content))}, indent=1))


def read_outcome(cell: Cell) -> Outcome:
    """Return the outcome of a finished cell from its files; a file that cannot be read is a failure of the cell."""
    try:
        return Outcome(cell, _read_scores(cell), load_file(_pointwise_path(cell)))
    except (OSError, ValueError, SafetensorError) as error:
        return Outcome(cell, failure=f"its evaluation cannot be read: {error}")


class _DamagedError(ValueError):
    """A file of an evaluation is not as it was written."""


def _read_scores(cell: Cell) -> dict[str, Any]:
    """Return the content of ``evaluation.json`` after a check of all checksums in it.

    Raises:
        _DamagedError: if a file is missing, cannot be read, or differs from what was written.
    """
    try:
        scores = read_json(cell.evaluation, _MOST_BYTES)
        expected, files = scores.pop(_CHECKSUM), scores[_FILES]
        is_intact = digest(canonical(scores)) == expected
    except InputError as error:
        raise _DamagedError(str(error).rstrip(".")) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _DamagedError(f"{cell.evaluation} is damaged ({type(error).__name__})") from error
    if not is_intact:
        raise _DamagedError(f"{cell.evaluation} is damaged: its checksum does not match its content")
    for name, recorded in files.items():
        path = cell.evaluation.with_name(name)
        try:
            found = digest(read_limited(path, _MOST_BYTES))
        except InputError as error:
            raise _DamagedError(str(error).rstrip(".")) from error
        if found != recorded:
            raise _DamagedError(f"{path} is damaged: its checksum differs from the recorded one")
    return scores


def write_arrays(cell: Cell, arrays: Mapping[str, Tensor]) -> None:
    """Write the arrays for the pictures of a cell; without arrays there is no file.

    Args:
        cell: the cell.
        arrays: tensors of any shape by name.
    """
    if arrays:
        write_bytes(_arrays_path(cell), save(dict(arrays)))


def read_arrays(cell: Cell) -> dict[str, Tensor]:
    """Return the arrays for the pictures of a cell, as `write_arrays` got them; empty if there is no readable file."""
    path = _arrays_path(cell)
    try:
        return load_file(path) if path.exists() else {}
    except (OSError, SafetensorError):
        return {}


def _pointwise_path(cell: Cell) -> Path:
    return cell.evaluation.with_suffix(".safetensors")


def _arrays_path(cell: Cell) -> Path:
    return cell.folder / "drawings.safetensors"
