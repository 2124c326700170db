"""A traced step as one CUDA graph, which one launch runs in place of one launch per operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pvae.train.graph.trace import Outputs

__all__ = ["CapturedGraph"]

#: PyTorch needs some runs before a capture, in which its libraries choose their kernels and allocate memory.
_WARM_UP_RUNS = 3


class CapturedGraph:
    """Runs a graph of tensor operations on CUDA, recorded once and replayed at each call.

    Each call copies its arguments into the memory of the recording. Outputs of shape () are copied from it; the next
    call overwrites other outputs, such as gradients.

    Args:
        run: a function of tensors that reads no value and draws only from the generator of its device. It runs several
            times, so the caller has to restore buffers and generators.
        arguments: tensors with the shapes and dtypes of later calls.

    Attributes:
        coarsest: None, because the function decides which library computes the products.
    """

    coarsest: torch.dtype | None = None

    def __init__(self, run: Callable[..., Outputs], arguments: Sequence[Tensor]) -> None:
        self._inputs = [argument.clone() for argument in arguments]
        self._replay, self._outputs = record(run, self._inputs)

    def run(self, *arguments: Tensor) -> Outputs:
        """Return the outputs for new arguments."""
        for place, argument in zip(self._inputs, arguments, strict=True):
            place.copy_(argument, non_blocking=True)
        self._replay()
        return tuple(output.clone() if output is not None and output.dim() == 0 else output for output in self._outputs)


def record(run: Callable[..., Outputs], inputs: Sequence[Tensor]) -> tuple[Callable[[], None], Outputs]:
    """Record a function on CUDA; return the function that replays it, and the outputs that each replay writes.

    Args:
        run: the function.
        inputs: the tensors that each replay reads.
    """
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP_RUNS):
            run(*inputs)
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run(*inputs)
    return graph.replay, outputs
