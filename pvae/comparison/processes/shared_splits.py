"""The data for worker processes, in one file that every worker maps into memory."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from pvae.batch import Batch
from pvae.data import Splits
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError
from pvae.locks import LOCK_FILE, sole_writer

__all__ = [
    "PackedSplits",
    "SharedSplits",
    "pack_splits",
    "remove_abandoned_data",
    "shared_folder",
    "write_shared_splits",
]


_PREFIX = "pvae-shared-"
_SECONDS_UNTIL_LOCKED = 10.0  # A process locks its new folder within this time, in seconds.


@dataclass(frozen=True)
class PackedSplits:
    """Splits without the tensors that are in memory.

    Attributes:
        fields: the names of the fields of each split that is in memory, in order.
        stored: the splits that are read in parts.
        attributes: the other attributes of the splits.
    """

    fields: Mapping[str, tuple[str, ...]]
    stored: Mapping[str, StoredBatch]
    attributes: Mapping[str, Any]

    def restore(self, tensors: Mapping[str, Tensor]) -> Splits:
        """Return the splits with the tensors that `pack_splits` returned."""
        splits: dict[str, Any] = {"train": None, "validation": None, "test": None, **self.stored}
        for split, names in self.fields.items():
            splits[split] = Batch(**{name: tensors[f"{split}.{name}"] for name in names})
        return Splits(**splits, **self.attributes)


def pack_splits(splits: Splits) -> tuple[PackedSplits, bytes]:
    """Return splits without their tensors, and the tensors as the content of a safetensors file.

    Args:
        splits: the data.
    """
    parts = {split: batch for split, batch in splits.parts.items() if batch is not None}
    stored = {split: batch for split, batch in parts.items() if isinstance(batch, StoredBatch)}
    batches = {split: batch for split, batch in parts.items() if split not in stored}
    tensors = {
        f"{split}.{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for split, batch in batches.items()
        for name, tensor in batch.items()
    }
    attributes = {name: value for name, value in vars(replace(splits)).items() if name not in splits.parts}
    return PackedSplits({split: batch.names for split, batch in batches.items()}, stored, attributes), save(tensors)


@dataclass(frozen=True)
class SharedSplits:
    """Splits with their tensors in a file; a call returns the splits.

    Attributes:
        path: the file.
        packed: the splits without their tensors.
        threads: number of torch threads in a worker.
    """

    path: Path
    packed: PackedSplits
    threads: int

    def __call__(self) -> Splits:
        """Return the splits, and set the number of threads of this process, which is a worker."""
        torch.set_num_threads(self.threads)
        # The file is mapped, so workers share its pages. Shared memory is not used, because containers limit it to 64
        # MB.
        return self.packed.restore(load_file(self.path))


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Yield a new temporary folder for the data of this process; other processes do not remove it."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, sole_writer(Path(folder)):
        yield Path(folder)


def remove_abandoned_data() -> None:
    """Remove copies of data of killed comparisons from the folder of temporary files."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_if_abandoned(path)


def _remove_if_abandoned(folder: Path) -> None:
    """Remove a folder of shared data if no process holds its lock.

    A process locks its folder and names itself in the lock before it writes the data. A new folder without such a lock
    has no data, and its process may lock it soon, so it is not removed.
    """
    with contextlib.suppress(OSError, InputError):
        lock = folder / LOCK_FILE
        is_new = abs(time.time() - folder.stat().st_mtime) < _SECONDS_UNTIL_LOCKED
        if not is_new or (lock.exists() and lock.stat().st_size):
            with sole_writer(folder):
                for path in folder.glob("*.safetensors"):
                    path.unlink()
            folder.rmdir()


def write_shared_splits(splits: Splits, folder: Path, threads: int) -> SharedSplits:
    """Write the tensors of splits to a file, and return the object that restores the splits in a worker.

    Args:
        splits: the data.
        folder: folder of the file.
        threads: number of torch threads in a worker.
    """
    packed, content = pack_splits(splits)
    path = folder / "splits.safetensors"
    path.write_bytes(content)
    return SharedSplits(path, packed, threads)
