"""The data for worker processes, in one file that every worker maps into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from pvae.batch import Batch
from pvae.data import Splits

__all__ = ["SharedSplits", "write_shared_splits"]


@dataclass(frozen=True)
class SharedSplits:
    """Splits whose tensors are in a file; a call returns the splits.

    Attributes:
        path: the file.
        fields: the names of the fields of each split, in order.
        attributes: the other attributes of the splits.
        threads: number of torch threads in a worker.
    """

    path: Path
    fields: Mapping[str, tuple[str, ...]]
    attributes: Mapping[str, Any]
    threads: int

    def __call__(self) -> Splits:
        """Return the splits, and set the number of threads of this process, which is a worker."""
        torch.set_num_threads(self.threads)
        # The file is mapped, not read: workers share its pages. Shared memory is no option, as containers have 64 MB.
        tensors = load_file(self.path)
        splits: dict[str, Any] = {"train": None, "validation": None, "test": None}
        for split, names in self.fields.items():
            splits[split] = Batch(**{name: tensors[f"{split}.{name}"] for name in names})
        return Splits(**splits, **self.attributes)


def write_shared_splits(splits: Splits, folder: Path, threads: int) -> SharedSplits:
    """Write the tensors of splits to a file, and return the object that restores the splits in a worker.

    Args:
        splits: the data.
        folder: folder of the file.
        threads: number of torch threads in a worker.
    """
    batches = {split: batch for split, batch in splits.parts.items() if batch is not None}
    tensors = {
        f"{split}.{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for split, batch in batches.items()
        for name, tensor in batch.items()
    }
    path = folder / "splits.safetensors"
    path.write_bytes(save(tensors))
    attributes = {name: value for name, value in vars(replace(splits)).items() if name not in splits.parts}
    return SharedSplits(path, {split: batch.names for split, batch in batches.items()}, attributes, threads)
