"""A guard against programs that make a table of all joint values of many enumerated sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pvae.errors import InputError
from pvae.memory import format_bytes, free_bytes

__all__ = ["JointMemoryGuard"]


class JointMemoryGuard(TorchFunctionMode):
    """Raises InputError for an operation of a program with a result that would not fit into the free memory.

    A table of all joint values grows with the product of the numbers of values. A chain does not need it, because each
    step depends on few sites; a program that stacks all sites does. So the guard checks each operation.

    Args:
        sites: the names of the enumerated sites, for the error. The list may grow.
        free: the number of free bytes.
    """

    def __init__(self, sites: Sequence[str], free: int) -> None:
        super().__init__()
        self.sites, self.free = sites, free

    @classmethod
    def if_needed(cls, sites: Sequence[str], sizes: Iterable[int], entries: Tensor) -> JointMemoryGuard | None:
        """Return a guard if a table of all joint values would not fit into the free memory, else None.

        Args:
            sites: the names of the enumerated sites.
            sizes: their numbers of values.
            entries: a tensor with the entries for one joint value, such as a value of a site.
        """
        needed = math.prod(sizes) * entries.numel() * max(4, entries.element_size())
        free = free_bytes(entries.device) if needed > 2**27 else None
        return cls(sites, free) if free is not None and needed > free else None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, unless its arguments broadcast to more than the free memory."""
        operands = args[1:] if func is Tensor.__getitem__ else args
        needed = _bytes_of_result(list(_tensors([operands, *(kwargs or {}).values()])))
        if needed > self.free:
            names = ", ".join(map(repr, self.sites[:5])) + ", ..." * (len(self.sites) > 5)
            raise InputError(
                f"Enumeration of the sites {names} leads to a table of their joint values of {format_bytes(needed)}; "
                f"{format_bytes(self.free)} are free. Make each site depend on few others, for example with "
                "pyro.markov for a chain; or draw some of the sites in the guide without a mark, or take fewer "
                "particles or fewer "
                "data at a time (batch_size, chunk)."
            )
        return func(*args, **(kwargs or {}))


def _tensors(arguments: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among the arguments of an operation, also those in lists and tuples."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors(argument)


def _bytes_of_result(tensors: Sequence[Tensor]) -> int:
    """Return the size of a tensor that all of these broadcast to; 0 if they do not broadcast."""
    with torch._C.DisableTorchFunction():
        try:
            shape = torch.broadcast_shapes(*[tensor.shape for tensor in tensors])
        except RuntimeError:  # a product of matrices, for example
            return 0
        return shape.numel() * max([tensor.element_size() for tensor in tensors], default=0)
