"""One-hot vectors in a traced step: PyTorch's function reads the largest class from the device, to check it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["one_hot_without_reads"]


@contextmanager
def one_hot_without_reads() -> Iterator[None]:
    """Run a block in which `torch.nn.functional.one_hot` reads no value if it gets the number of classes.

    A class outside the range still raises an error on the CPU.
    """
    one_hot = torch.nn.functional.one_hot

    def scattered(tensor: Tensor, num_classes: int = -1) -> Tensor:
        if num_classes < 1:
            return one_hot(tensor, num_classes)
        vectors = torch.zeros(*tensor.shape, num_classes, dtype=torch.int64, device=tensor.device)
        return vectors.scatter(-1, tensor.unsqueeze(-1), 1)

    torch.nn.functional.one_hot = scattered
    try:
        yield
    finally:
        torch.nn.functional.one_hot = one_hot
