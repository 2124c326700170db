"""What compiling a step is expected to cost and to save, before it is compiled."""

from __future__ import annotations

import operator
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from pvae.products.numpy_products import warnings_silenced
from pvae.train.compiled.lifted_graph import lift
from pvae.train.compiled.step_agreement import TensorState

__all__ = ["ExpectedGain", "expect_gain", "largest_saving"]

#: Seconds that compiling takes without torch's cache, and for each operation of the graph, measured on busy cores.
_COST, _COST_PER_OPERATION = 12.0, 0.07
#: The part of a step that a compiled step can save: of the time in which operations start, and of their other time.
_SAVED_OF_STARTS, _SAVED_OF_REST = 0.9, 0.4
#: Seconds to start one operation of torch.
_START = 2e-6
#: The number of runs of the graph in which its operations are timed.
_TIMED_RUNS = 5
#: Parts of the names of operations that compiled code calls as the graph does.
_KEPT_NAMES = (
    "mm", "conv", "linalg", "cholesky", "triangular", "::lu_", "fft", "sort", "topk", "rnn", "lstm", "gru", "scatter",
    "index_put", "gamma", "special_",
)  # fmt: skip


@dataclass(frozen=True)
class ExpectedGain:
    """What compiling is expected to cost once, and to save in each step, in seconds of CPU time.

    Attributes:
        cost: the time of compiling without torch's cache.
        saving: the time that a compiled step saves, estimated from below.
    """

    cost: float
    saving: float


def largest_saving(module: GraphModule, seconds: float) -> ExpectedGain:
    """Return the cost of compiling a graph, and the most that a compiled step can be expected to save.

    Args:
        module: the graph of the step.
        seconds: the CPU time of a step in this thread.
    """
    count = sum(node.op == "call_function" for node in module.graph.nodes)
    return ExpectedGain(_COST + _COST_PER_OPERATION * count, _SAVED_OF_STARTS * seconds)


def expect_gain(module: GraphModule, arguments: Sequence[Tensor], seconds: float) -> ExpectedGain:
    """Return what compiling is expected to cost and to save; all tensors and generators are restored.

    Compiled code calls the matrix products, the convolutions and the random draws as the graph does, so their time is
    measured and counts as kept. Of the rest of the step, it saves nearly all the time in which operations start, and
    less than half of the other time, because it reads and writes fewer tensors.

    Args:
        module: the graph that runs now, with the products that it uses.
        arguments: the tensors that the programs take.
        seconds: the CPU time of a step in this thread, with the update of the parameters.
    """
    runs = []
    state = TensorState(lift(module).tensors)
    try:
        for _ in range(_TIMED_RUNS):
            run = _TimedRun(module)
            with torch.no_grad(), warnings_silenced():
                run.run(*arguments)
            runs.append(run)
    finally:
        state.restore()
    rest = max(0.0, seconds - statistics.median(run.kept_seconds for run in runs))
    starts = min(rest, _START * runs[0].fused)
    saving = _SAVED_OF_STARTS * starts + _SAVED_OF_REST * (rest - starts)
    return ExpectedGain(largest_saving(module, seconds).cost, saving)


class _TimedRun(Interpreter):
    """A run of a graph that measures the time of the operations that compiled code calls too.

    Args:
        module: the graph.

    Attributes:
        kept_seconds: the CPU time of these operations in this thread.
        fused: the number of the other operations.
    """

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.kept_seconds, self.fused = 0.0, 0

    def run_node(self, n: Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        begun = time.thread_time()
        outputs = super().run_node(n)
        if _is_kept(n.target):
            self.kept_seconds += time.thread_time() - begun
        else:
            self.fused += 1
        return outputs


def _is_kept(target: Any) -> bool:
    """Return whether compiled code calls an operation as the graph does, and does not fuse it with others."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace not in ("aten", "prims"):
        return target is not operator.getitem  # products by other libraries, and custom operations
    name = target.name()
    return torch.Tag.nondeterministic_seeded in target.tags or any(part in name for part in _KEPT_NAMES)
