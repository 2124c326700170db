"""`FreeMemoryLimit`: an error before an operation makes a tensor that the free memory cannot hold."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from pvae.errors import InputError
from pvae.memory import PeakMemory, format_bytes, free_bytes, is_view_or_in_place
from pvae.structures import count_of, tensors_of

__all__ = ["USABLE", "FreeMemoryLimit", "data_count", "describe_need", "device_of", "needs_limit"]

#: Operations on a smaller share of the free memory are not checked, because their results are small.
_SMALLEST_SHARE = 2.0**-16

#: The numbers of copies in the bound of `needs_limit`.
_COPIES_OF_DATUM, _COPIES_OF_PARAMETERS, _TABLES_OF_PAIRS = 500, 4, 16

#: The share of the free memory that the tensors of a run may need, because the process needs more than its tensors.
USABLE = 0.8


def describe_need(needed: float, device: torch.device | str, free: float, *, is_lower_bound: bool) -> str:
    """Return a text with the needed memory and the free memory.

    Args:
        needed: the bytes that are needed.
        device: the device.
        free: the bytes that are free.
        is_lower_bound: whether more than `needed` is needed.
    """
    amount = f"{'more than' if is_lower_bound else 'about'} {format_bytes(needed)}"
    return f"{amount} of memory on {device}; {format_bytes(free)} are free, of which {USABLE:.0%} may be used."


class FreeMemoryLimit(PeakMemory):
    """Raises InputError for an operation with a result that does not fit into the memory that is still free.

    The size of the result comes from a run of the operation without memory, on the device ``meta`` of torch. Memory
    that an operation needs only while it runs is not counted. In trainings with dense and convolutional networks, the
    process took 1.0 to 2.4 times the memory of the tensors.

    Args:
        device: the device of the block; tensors on other devices are not counted.
        share: the share of the free memory that the block may need.

    Attributes:
        free: the bytes that were free at the start; None if that is not known, and then every operation is allowed.
        needed: the bytes that the block would have needed for the first operation that does not fit; None if all fit.
    """

    def __init__(self, device: torch.device | str, share: float = USABLE) -> None:
        super().__init__()
        self.device, self.share = torch.device(device), share
        self.free = free_bytes(self.device)
        self.needed: int | None = None
        self._results: dict[Any, int] = {}  # bytes of the results of operations, by operation and kinds of operands

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, unless its result does not fit.

        Raises:
            InputError: if it does not fit.
        """
        needed = self.held + self._bytes_of_result(func, args, kwargs or {})
        if self.free is not None and needed > self.share * self.free:
            self.needed = self.needed or needed
            raise InputError(f"A run {self.shortage()} Take fewer data or fewer particles at a time.")
        return super().__torch_dispatch__(func, types, args, kwargs)

    def shortage(self) -> str:
        """Return a text with the memory that the block needs and the free memory; "" if every operation fitted."""
        if self.needed is None or self.free is None:
            return ""
        return f"needs {describe_need(self.needed, self.device, self.free, is_lower_bound=True)}"

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage.device.type == self.device.type:
            super()._add(storage)

    def _bytes_of_result(self, func: Any, args: Any, kwargs: Any) -> int:
        """Return the bytes that an operation allocates on the device; 0 if they are few or unknown."""
        if not isinstance(func, torch._ops.OpOverload) or is_view_or_in_place(func):
            return 0
        leaves = tree_leaves((args, kwargs))
        operands = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        size = sum(map(_bytes_of, operands)) if operands else 8 * _product(args)
        device = kwargs.get("device") or (operands[0].device if operands else self.device)
        if size < _SMALLEST_SHARE * (self.free or 0) or torch.device(device).type != self.device.type:
            return 0
        if self._fits_entry_by_entry(func, operands):
            return 0
        kinds = [(leaf.shape, leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        key = (func, *kinds)
        if key not in self._results:
            self._results[key] = _bytes_on_meta(func, args, kwargs, has_operands=bool(operands))
        return self._results[key]

    def _fits_entry_by_entry(self, func: Any, operands: list[Tensor]) -> bool:
        """Return whether an operation on each entry has a result that fits: its operands broadcast to it."""
        if torch.Tag.pointwise not in func.tags:
            return False
        entries = math.prod(map(max, zip_longest(*[reversed(operand.shape) for operand in operands], fillvalue=1)))
        return self.held + 8 * entries <= self.share * (self.free or 0)


def _bytes_on_meta(func: Any, args: Any, kwargs: Any, *, has_operands: bool) -> int:
    """Return the bytes of the results of an operation; 0 if they cannot be found without memory."""
    on_meta = kwargs if has_operands and "device" not in kwargs else {**kwargs, "device": "meta"}
    try:
        results = func(*tree_map_only(Tensor, _on_meta, args), **tree_map_only(Tensor, _on_meta, on_meta))
    except Exception:  # an operation with a result that depends on the values, for example
        return 0
    return sum(_bytes_of(leaf) for leaf in tree_leaves(results) if isinstance(leaf, Tensor))


def _bytes_of(tensor: Tensor) -> int:
    """Return the bytes of all entries of a tensor, including entries that an expanded tensor repeats."""
    return tensor.numel() * tensor.element_size()


def _product(args: Any) -> int:
    """Return the product of the whole numbers in the arguments of a factory: its result has no more entries."""
    return math.prod(leaf for leaf in tree_leaves(args) if isinstance(leaf, int) and leaf > 1)


def _on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def needs_limit(
    modules: nn.Module, batch: Mapping[str, Any], evaluations: int, device: torch.device | str | None = None
) -> bool:
    """Return whether runs of programs may need more memory than is free, by a generous bound from sizes alone.

    A `FreeMemoryLimit` takes time for each operation, so a run that is certainly small has no limit. The bound for each
    evaluation is 500 times a datum, as in deep convolutions, and 4 times the parameters, as in a wide dense decoder;
    for a batch it is 16 tables of all pairs of data. Modules of `torch.compile` have no limit, because they do not
    compile inside one.

    Args:
        modules: the modules of the programs.
        batch: the data of a run.
        evaluations: the number of particles times data of a run.
        device: the device of the run; by default the device of the data.
    """
    size = data_count(batch)
    free = free_bytes(device or device_of(batch))
    if free is None or size == 0 or _has_compiled(modules):
        return False
    datum = sum(map(_bytes_of, _tensors(batch))) / size
    parameters = sum(map(_bytes_of, modules.parameters()))
    bound = evaluations * (_COPIES_OF_DATUM * datum + _COPIES_OF_PARAMETERS * parameters)
    return bound + _TABLES_OF_PAIRS * 8 * size**2 > free


def data_count(batch: Mapping[str, Any]) -> int:
    """Return the number of data of a batch, which may hold packed sequences and other structures; 0 if unknown.

    Args:
        batch: the fields by name.
    """
    return max([count_of(value) or 0 for value in batch.values()], default=0)


def device_of(batch: Mapping[str, Any]) -> torch.device:
    """Return the device of the first tensor of a batch; the CPU if it has none.

    Args:
        batch: the fields by name.
    """
    return next((tensor.device for tensor in _tensors(batch)), torch.device("cpu"))


def _tensors(batch: Mapping[str, Any]) -> list[Tensor]:
    return [tensor for value in batch.values() for tensor in tensors_of(value)]


def _has_compiled(modules: nn.Module) -> bool:
    """Return whether a module is the result of `torch.compile`."""
    frames = sys.modules.get("torch._dynamo.eval_frame")  # before its import, which is slow, nothing is compiled
    return frames is not None and any(isinstance(module, frames.OptimizedModule) for module in modules.modules())
