"""One writer at a time: a lock on a folder, which other processes respect."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pvae.errors import InputError
from pvae.outside_files import read_start, require_regular

__all__ = ["LOCK_FILE", "is_unused", "is_written_now", "names_this_process", "remove_lock", "sole_writer"]

#: the file in a folder that its writer locks; it is removed at the end
LOCK_FILE = ".lock"

# Slurm's variables for the number of a job, and for how often it was started again after its machine failed.
_JOB, _RESTARTS = "SLURM_JOB_ID", "SLURM_RESTART_COUNT"


def is_unused(folder: Path) -> bool:
    """Return whether a folder holds nothing, or nothing but a lock."""
    return all(path.name == LOCK_FILE for path in folder.iterdir())


def is_written_now(folder: Path) -> bool:
    """Return whether a process writes to a folder. A writer on another computer counts even if it has ended."""
    path = folder / LOCK_FILE
    holder = _holder(path)
    process = holder.get("process")
    if not path.exists() or not isinstance(process, int) or not 0 < process < 1 << 31:
        return False
    return holder.get("host") != socket.gethostname() or _is_alive(process)


def names_this_process(folder: Path) -> bool:
    """Return whether the lock of a folder names this process; False if another one has taken it over."""
    holder = _holder(folder / LOCK_FILE)
    return holder.get("host") == socket.gethostname() and holder.get("process") == os.getpid()


def remove_lock(folder: Path) -> None:
    """Remove the lock of a writer that has ended on another computer, so that a new writer can lock the folder.

    Args:
        folder: the folder; nothing happens if it has no lock.
    """
    (folder / LOCK_FILE).unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Return whether a process of this computer runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it runs for another user
        return True
    return True


@contextmanager
def sole_writer(folder: Path | None) -> Iterator[None]:
    """Run a block as the only writer of a folder, which is made if it is absent.

    The operating system frees the lock when its process ends, however it ends. The lock file names the writer, because
    a shared file system may not pass locks on to other computers. A job that Slurm has started again, perhaps on
    another computer, takes over its own lock. A folder that was made here and is empty after the block is removed.

    Args:
        folder: the folder; None runs the block without a lock.

    Raises:
        InputError: if another writer has the folder, in this process or another one, or on another computer; or if its
            lock is not a regular file.
    """
    if folder is None:
        yield
        return
    made = _make_folders(folder)
    path = folder / LOCK_FILE
    if path.is_symlink():
        raise InputError(f"{path} needs to be a regular file, as the lock of {folder}; it is a link. Remove it.")
    if path.exists():
        require_regular(path)
    # A lock for each call, not for each thread: the other writer may be a thread of this process.
    lock = FileLock(path, thread_local=False)
    try:
        _acquire(lock, folder, path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            lock.release()
    finally:
        _remove_empty(made)


def _acquire(lock: FileLock, folder: Path, path: Path) -> None:
    """Acquire the lock and write the name of this process into its file, or raise InputError."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"{folder} needs one writer at a time, and {_describe(_holder(path))} writes to it now. Wait until it "
            "ends, or name another folder."
        ) from None
    holder = _holder(path)
    if holder.get("host") not in (None, socket.gethostname()) and not _was_restarted(holder):
        lock.release()
        raise InputError(
            f"{folder} needs one writer at a time, and {_describe(holder)} has not released it. If that "
            f"process does not run any more, remove {path}; otherwise name another folder."
        )
    content = {"host": socket.gethostname(), "process": os.getpid(), **_slurm_job()}
    path.write_text(json.dumps(content), encoding="utf-8")


def _slurm_job() -> dict[str, object]:
    """Return the number of the Slurm job of this process and of its restarts; empty outside of Slurm."""
    restarts = os.environ.get(_RESTARTS, "0")
    if _JOB not in os.environ:
        return {}
    return {"job": os.environ[_JOB], "restarts": int(restarts) if restarts.isdecimal() else 0}


def _was_restarted(holder: Mapping[str, object]) -> bool:
    """Return whether a writer is this Slurm job before its last restart, which Slurm ended before the restart."""
    job, restarts = _slurm_job(), holder.get("restarts")
    if not job or job["job"] != holder.get("job") or not isinstance(restarts, int):
        return False
    return restarts < int(str(job["restarts"]))


def _holder(path: Path) -> dict[str, object]:
    """Return the writer that a lock file names, by key; empty if it names none."""
    try:
        content = json.loads(read_start(path, 1000))
    except (ValueError, RecursionError):  # InputError is a ValueError
        return {}
    return content if isinstance(content, dict) else {}


def _describe(holder: dict[str, object]) -> str:
    if "process" not in holder:
        return "another process"
    return f"process {holder['process']} on {holder.get('host')}"


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; return the new ones, the innermost first."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return new


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # the folder is not empty, or does not exist any more
            return
