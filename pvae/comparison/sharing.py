"""Data for worker processes: written once to a file that every worker maps into memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pvae.batch import Batch
from pvae.data import Splits

__all__ = ["Shared", "share"]


@dataclass(frozen=True)
class Shared:
    """Splits without their tensors, and the file that holds those; calling it gives the splits back.

    Attributes:
        path: the file.
        fields: names of the fields of each split, in order.
        rest: the other attributes of the splits.
        threads: threads that a worker's tensors may use.
    """

    path: Path
    fields: Mapping[str, tuple[str, ...]]
    rest: Mapping[str, Any]
    threads: int

    def __call__(self) -> Splits:
        """Return the splits; sets the number of threads of this process, a worker's."""
        torch.set_num_threads(self.threads)
        # Mapped, not read: workers share the pages. Shared memory would do too, but containers give 64 MB of it.
        tensors = load_file(self.path)
        parts = {part: _batch(part, names, tensors) for part, names in self.fields.items()}
        return Splits(**{"train": None, "validation": None, "test": None, **parts, **self.rest})


def _batch(part: str, names: tuple[str, ...], tensors: Mapping[str, torch.Tensor]) -> Batch:
    return Batch(**{name: tensors[f"{part}.{name}"] for name in names})


def share(splits: Splits, folder: Path, threads: int) -> Shared:
    """Write the tensors of splits to a file in `folder`, and return what gives the splits back."""
    parts = {name: part for name, part in splits.parts.items() if part is not None}
    tensors = {
        f"{name}.{field}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, part in parts.items()
        for field, tensor in part.items()
    }
    path = folder / "splits.safetensors"
    save_file(tensors, path)
    rest = {name: value for name, value in vars(replace(splits)).items() if name not in splits.parts}
    return Shared(path, {name: part.names for name, part in parts.items()}, rest, threads)
