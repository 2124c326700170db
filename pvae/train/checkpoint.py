"""Checkpoints on disk: written whole or not at all, checked when read, never unpickled."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from pvae.errors import InputError
from pvae.files import replace_folder, sync
from pvae.train.encoding import canonical, digest

__all__ = ["FORMAT", "Snapshot", "describe_difference", "read", "read_newest", "write"]

FORMAT = 1
_TENSORS = ("parameters", "training")
_PREVIOUS = ".previous"


@dataclass(frozen=True)
class Snapshot:
    """All that a training is at one moment.

    Attributes:
        parameters: the model's state, and the tensors of its parameter store.
        training: the state of the optimiser, the objective and the generators.
        state: the rest, as JSON can hold it.
    """

    parameters: Mapping[str, Tensor]
    training: Mapping[str, Tensor]
    state: Mapping[str, Any]


def _put(path: Path, content: bytes) -> None:
    """Write a file and have it reach the disk."""
    with path.open("wb") as file:
        file.write(content)
    sync(path)


def write(folder: Path, name: str, snapshot: Snapshot) -> None:
    """Write ``folder/name``, and keep the one that was there as ``name.previous``.

    Raises:
        OSError: if the disk is full or not writable; what was there is then as it was.
    """
    try:
        with replace_folder(folder / name, folder / f"{name}{_PREVIOUS}") as unfinished:
            _fill(unfinished, snapshot)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"No checkpoint could be written to {folder / name} ({reason}); the previous one is intact"
        ) from error


def _fill(folder: Path, snapshot: Snapshot) -> None:
    files = {}
    for part in _TENSORS:
        tensors = {name: each.detach().cpu().contiguous().clone() for name, each in getattr(snapshot, part).items()}
        content = safetensors.torch.save(tensors)
        files[f"{part}.safetensors"] = digest(content)
        _put(folder / f"{part}.safetensors", content)
    body = {"format": FORMAT, **snapshot.state, "files": files}
    _put(folder / "state.json", json.dumps({"sha256": digest(canonical(body)), "state": body}, indent=1).encode())


def read(folder: Path) -> Snapshot:
    """Return a checkpoint.

    Raises:
        InputError: if it is missing, damaged, or of a format that this version does not read.
    """
    try:
        held = json.loads((folder / "state.json").read_bytes())
        body, expected = held["state"], held["sha256"]
        if digest(canonical(body)) != expected:
            raise InputError(f"{folder / 'state.json'} is damaged: its checksum does not fit its content.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / 'state.json'} is missing or damaged ({type(error).__name__}).") from error
    if body.get("format") != FORMAT:
        raise InputError(
            f"{folder} has checkpoint format {body.get('format')!r}; this version reads format {FORMAT}. Continue it "
            "with the version of pvae that wrote it (config.toml names it)."
        )
    parts = [_tensors(folder / f"{part}.safetensors", body["files"]) for part in _TENSORS]
    return Snapshot(parts[0], parts[1], body)


def _tensors(path: Path, files: Mapping[str, str]) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} is missing or cannot be read ({error.strerror}).") from error
    if digest(content) != files.get(path.name):
        raise InputError(f"{path} is damaged: its checksum is not the recorded one.")
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise InputError(f"{path} is no safetensors file: {error}.") from error


def read_newest(folder: Path, name: str) -> Snapshot:
    """Return ``folder/name``; where that is missing or damaged, the previous one, with a warning that names it.

    Raises:
        InputError: if neither can be used.
    """
    newest, previous = folder / name, folder / f"{name}{_PREVIOUS}"
    try:
        return read(newest)
    except InputError as error:
        if not previous.exists():
            raise
        try:
            found = read(previous)
        except InputError as other:
            raise InputError(f"Neither checkpoint can be used. {error} {other}") from other
        if newest.exists():  # else the process was stopped between two renames: nothing is lost
            warnings.warn(f"{error} The previous checkpoint, {previous}, is used.", stacklevel=2)
        return found


def describe_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any], what: str) -> str:
    """Return in words how two tables differ, or an empty text; `theirs` is the recorded one."""
    said = []
    if gone := [name for name in theirs if name not in ours]:
        said.append(f"the checkpoint has {what} {', '.join(gone[:5])}, which are not here")
    if new := [name for name in ours if name not in theirs]:
        said.append(f"{what} {', '.join(new[:5])} are not in the checkpoint")
    changed = [name for name in ours if name in theirs and ours[name] != theirs[name]]
    said += [f"{name} is {ours[name]!r} here and {theirs[name]!r} in the checkpoint" for name in changed[:5]]
    return "; ".join(said)
