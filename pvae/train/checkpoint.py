"""Checkpoints on disk. A checkpoint is written completely or not at all, checked when it is read, and not unpickled."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pvae.errors import InputError
from pvae.files import UNFINISHED, replace_folder, sync
from pvae.names import short_label
from pvae.outside_files import check_form, read_json, read_limited
from pvae.train.encoding import canonical, digest

__all__ = ["FORMAT", "Snapshot", "describe_difference", "read", "read_newest", "read_state", "write"]

FORMAT = 1
_TENSORS = ("parameters", "training")
_PREVIOUS = ".previous"
#: The ending of the name of a tensor of real and imaginary parts, of shape (..., 2).
_DOUBLE_COMPLEX = ".complex128"
_MOST_BYTES_OF_STATE = 2**25
_MOST_CHARACTERS = 200  # of a value in a message
_NUMBER = (int, float)
_COUNTS = ("epoch", "step", "step_in_epoch", "seen", "stale", "rollbacks", "best_epoch", "records", "metrics_bytes")
_FORM = {
    **dict.fromkeys(_COUNTS, int),
    **dict.fromkeys(("metrics_sha256", "finished"), str),
    "seconds": _NUMBER,
    "best_bound": (*_NUMBER, type(None)),
    "sums": [[(str, *_NUMBER, dict)]],
    "signature": {"*": [(str, list)]},
    "optimiser": {"groups": [dict], "values": dict},
    "schedule": dict,
    "products?": {"machine?": {"*": str}, "choices?": {"*": str}},
    "how?": {"asked?": str, "used?": str},
    "frozen?": [str],
    "evaluating?": [str],
    "files": {"*": str},
    "sizes": {"*": int},
}


@dataclass(frozen=True)
class Snapshot:
    """The state of a training at one moment.

    Attributes:
        parameters: the tensors of the model and of its parameter store.
        training: the tensors of the optimiser, of the objective and of the random generators.
        state: all other values, as JSON values.
    """

    parameters: Mapping[str, Tensor]
    training: Mapping[str, Tensor]
    state: Mapping[str, Any]


def _put(path: Path, content: bytes) -> None:
    """Write a file, and return when it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
    sync(path)


def write(folder: Path, name: str, snapshot: Snapshot) -> None:
    """Write a checkpoint to ``folder/name``; the previous one is kept as ``name.previous``.

    Args:
        folder: the folder of the run.
        name: ``"best"`` or ``"last"``.
        snapshot: the state of the training.

    Raises:
        OSError: if the disk is full or not writable; the previous checkpoint is then unchanged.
    """
    try:
        with replace_folder(folder / name, folder / f"{name}{_PREVIOUS}") as unfinished:
            _fill(unfinished, snapshot)
    except OSError as error:
        reason = error.strerror or str(error)
        rest = "; the previous one is intact" if (folder / name).exists() else ""
        raise OSError(error.errno, f"No checkpoint could be written to {folder / name} ({reason}){rest}") from error


def _fill(folder: Path, snapshot: Snapshot) -> None:
    files, sizes = {}, {}
    for part, tensors_of_part in (("parameters", snapshot.parameters), ("training", snapshot.training)):
        tensors = dict(_storable(name, tensor) for name, tensor in tensors_of_part.items())
        content = safetensors.torch.save(tensors)
        files[f"{part}.safetensors"] = digest(content)
        sizes[f"{part}.safetensors"] = len(content)
        _put(folder / f"{part}.safetensors", content)
    body = {"format": FORMAT, **snapshot.state, "files": files, "sizes": sizes}
    _put(folder / "state.json", json.dumps({"sha256": digest(canonical(body)), "state": body}, indent=1).encode())


def _storable(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Return a copy of a tensor under its name; safetensors has no complex numbers of double precision."""
    if tensor.dtype == torch.complex128:
        name, tensor = name + _DOUBLE_COMPLEX, torch.view_as_real(tensor.resolve_conj())
    return name, tensor.detach().cpu().contiguous().clone()


def _stored(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Return the tensor that `_storable` got."""
    if name.endswith(_DOUBLE_COMPLEX):
        return name.removesuffix(_DOUBLE_COMPLEX), torch.view_as_complex(tensor)
    return name, tensor


def read(folder: Path) -> Snapshot:
    """Return a checkpoint.

    Args:
        folder: the folder of the checkpoint.

    Raises:
        InputError: if it is missing or damaged, or has a format that this version does not read.
    """
    body = read_state(folder)
    parts = [_tensors(folder / f"{part}.safetensors", body) for part in _TENSORS]
    return Snapshot(parts[0], parts[1], body)


def read_state(folder: Path) -> dict[str, Any]:
    """Return the values of a checkpoint that are not tensors.

    Args:
        folder: the folder of the checkpoint.

    Raises:
        InputError: if they are missing or damaged, or have a format that this version does not read.
    """
    try:
        content = read_json(folder / "state.json", _MOST_BYTES_OF_STATE)
        body, expected = content["state"], content["sha256"]
        is_intact = digest(canonical(body)) == expected
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / 'state.json'} is damaged ({type(error).__name__}).") from error
    if not is_intact:
        raise InputError(f"{folder / 'state.json'} is damaged: its checksum does not match its content.")
    if body.get("format") != FORMAT:
        raise InputError(
            f"{folder} has checkpoint format {body.get('format')!r}; this version reads format {FORMAT}. Use the "
            "version of pvae that wrote it (config.toml names it)."
        )
    check_form(folder / "state.json", body, _FORM)
    negative = next((name for name in _COUNTS if body[name] < 0), None)
    if negative is not None:
        raise InputError(
            f"{folder / 'state.json'} is damaged: {negative} needs to be 0 or more; it is {body[negative]}."
        )
    return dict(body)


def _tensors(path: Path, body: Mapping[str, Any]) -> dict[str, Tensor]:
    content = read_limited(path, body["sizes"].get(path.name, 0))
    if digest(content) != body["files"].get(path.name):
        raise InputError(f"{path} is damaged: its checksum differs from the recorded one.")
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged: it is not a safetensors file ({error}).") from error
    return dict(_stored(name, tensor) for name, tensor in tensors.items())


def read_newest(folder: Path, name: str) -> Snapshot:
    """Return the checkpoint ``folder/name``; if it is missing or damaged, the previous one, with a warning.

    Args:
        folder: the folder of the run.
        name: ``"best"`` or ``"last"``.

    Raises:
        InputError: if neither can be read.
    """
    newest, previous = folder / name, folder / f"{name}{_PREVIOUS}"
    try:
        return read(newest)
    except InputError as error:
        if not previous.exists():
            raise
        try:
            snapshot = read(previous)
        except InputError as error_of_previous:
            raise InputError(f"Neither checkpoint can be used. {error} {error_of_previous}") from error_of_previous
        # If the process was stopped between two renames, the new checkpoint still exists under its temporary name.
        if newest.exists() or not newest.with_name(newest.name + UNFINISHED).is_dir():
            warnings.warn(f"{error} The previous checkpoint, {previous}, is used.", stacklevel=2)
        return snapshot


def describe_difference(current: Mapping[str, Any], recorded: Mapping[str, Any], kind: str) -> str:
    """Return the differences between two mappings as text; "" if they are equal.

    Args:
        current: the values of this training.
        recorded: the values of the checkpoint.
        kind: what the keys name, such as "parameters".
    """
    differences = []
    missing = [short_label(name) for name in recorded if name not in current]
    if missing:
        differences.append(f"the checkpoint has {kind} {', '.join(missing[:5])}, which this training does not have")
    new = [name for name in current if name not in recorded]
    if new:
        differences.append(f"{kind} {', '.join(new[:5])} are not in the checkpoint")
    changed = [name for name in current if name in recorded and current[name] != recorded[name]]
    differences += [
        f"{name} is {_short(current[name])} here and {_short(recorded[name])} in the checkpoint" for name in changed[:5]
    ]
    return "; ".join(differences)


def _short(value: Any) -> str:
    return short_label(repr(value), _MOST_CHARACTERS)
