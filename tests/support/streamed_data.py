"""Data sets of PyTorch for tests of data that are read in parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

__all__ = ["Augmented", "Plain", "Readings"]

SIZE = 60


def values(size: int = SIZE) -> Tensor:
    """Return data, shape (size, 4)."""
    return torch.randn(size, 4, generator=torch.Generator().manual_seed(1))


class Plain(Dataset):
    """Items (x, y) by number, with three classes."""

    def __init__(self, size: int = SIZE) -> None:
        self.x = values(size)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> Any:
        return self.x[number], number % 3


class Augmented(Plain):
    """Items with noise that is drawn at each reading, by the global generator of PyTorch."""

    def __getitem__(self, number: int) -> Any:
        return self.x[number] + 0.1 * torch.randn(4), number % 3


class Readings(IterableDataset):
    """Items by name, with noise, one after another; how many there are is not known."""

    def __init__(self, size: int = SIZE) -> None:
        self.x = values(size)

    def __iter__(self) -> Iterator[Any]:
        return ({"x": x + 0.1 * torch.randn(4)} for x in self.x)
