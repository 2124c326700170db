"""The run folder of a training: lock it, read the run to resume, and write ``config.toml``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tomli_w

from pvae.errors import InputError
from pvae.files import UNFINISHED, write_text
from pvae.locks import LOCK_FILE, is_unused, sole_writer
from pvae.train.checkpoint import Snapshot, read_newest
from pvae.train.run import read_config
from pvae.train.run_record import KINDS, find_changes, require_config_of_snapshot

__all__ = ["locked_config", "snapshot_to_resume", "write_config"]

#: The files of a run that was stopped before its first checkpoint.
_FILES_BEFORE_CHECKPOINT = {LOCK_FILE, "config.toml", f"config.toml{UNFINISHED}", "metrics.jsonl", f"last{UNFINISHED}"}


def locked_config(stack: ExitStack, folder: Path | None, resume: bool) -> dict[str, Any] | None:
    """Lock the folder of a run until `stack` ends, and return the ``config.toml`` of the run to be resumed, or None.

    Args:
        stack: the lock is released when it is closed.
        folder: the folder of the run, or None.
        resume: whether a run in the folder is continued.

    Raises:
        InputError: if the folder cannot be used; it is then unchanged.
    """
    _recorded_config(folder, resume)  # a folder that is refused stays unchanged
    stack.enter_context(sole_writer(folder))
    return _recorded_config(folder, resume)


def _recorded_config(folder: Path | None, resume: bool) -> dict[str, Any] | None:
    """Return the ``config.toml`` of the run to be resumed; None for a new run.

    Raises:
        InputError: if the folder cannot be used.
    """
    if folder is None:
        if resume:
            raise InputError("resume=True needs out=, the folder of the run to be resumed.")
        return None
    if not folder.exists() or (folder.is_dir() and is_unused(folder)):
        return None
    if not resume:
        raise InputError(
            f"{folder} exists already, and was not touched. Continue it with resume=True, or choose another out."
        )
    if (folder / "last").exists() or (folder / "last.previous").exists():
        return _require_continuable(folder, read_config(folder))
    # a run that was stopped before its first checkpoint starts again
    if not {path.name for path in folder.iterdir()} <= _FILES_BEFORE_CHECKPOINT:
        raise InputError(
            f"resume=True needs the folder of a run; {folder} holds none, and was not touched. Choose another out."
        )
    return None


def _require_continuable(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the ``config.toml`` of a run; raise InputError if its prior was fitted after its training."""
    if "fitted" in config.get("prior", {}):
        raise InputError(
            f"{folder} has a prior that was fitted after the training, and such a run cannot be resumed. Train its "
            f"model in a new folder: pvae.fit(pvae.open_run({str(folder)!r}).model, data, out=...)."
        )
    return config


def write_config(folder: Path | None, config: dict[str, Any], *, is_fresh: bool) -> None:
    """Write ``config.toml`` into the folder of a run; remove the records of an earlier start if the run is new.

    Args:
        folder: the folder of the run; None writes nothing.
        config: the content of the file.
        is_fresh: whether the run is new.
    """
    if folder is None:
        return
    if is_fresh:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    write_text(folder / "config.toml", tomli_w.dumps(config))


def snapshot_to_resume(
    folder: Path | None, config: dict[str, Any], recorded: dict[str, Any], accepted: Sequence[str]
) -> Snapshot:
    """Return the last checkpoint of a run that is resumed.

    Args:
        folder: the folder of the run.
        config: the ``config.toml`` of the continuation.
        recorded: the ``config.toml`` of the run.
        accepted: the kinds of changes that the continuation may have.

    Raises:
        InputError: if model, objective, data, options or versions are not those of the recorded run, or if the run has
            completed more epochs than it is asked for.
    """
    if folder is None:
        raise InputError("resume=True needs out=, the folder of the run to be resumed.")
    changes = find_changes(config, recorded, accepted)
    if changes:
        raise InputError(
            f"A resumed run needs the model, objective, data, options and versions of {folder}: {changes}. Give the "
            f"recorded values, or accept a kind of change (--allow-changed, allow_changed=): {', '.join(KINDS)}."
        )
    snapshot = read_newest(folder, "last")
    require_config_of_snapshot(folder, recorded, snapshot)
    epochs, completed = config["training"]["epochs"], snapshot.state["epoch"]
    if completed > epochs:
        raise InputError(f"{folder} has {completed} epochs already; epochs={epochs} is fewer. Give at least as many.")
    return snapshot
