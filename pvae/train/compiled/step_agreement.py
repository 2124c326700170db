"""Compare a compiled step with the graph and the optimiser of torch, on the same draws from the same state."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pvae.randomness import RandomState
from pvae.train.compiled.compiled_step import CompiledStep
from pvae.train.graph.agreement import coarsest_of, first_difference, is_close
from pvae.train.graph.trace import Outputs

__all__ = ["find_disagreement", "median_seconds"]

#: The number of steps of each kind that are timed.
_TIMED_STEPS = 10


def find_disagreement(
    step: CompiledStep, run: Callable[..., Outputs], arguments: Sequence[Tensor], names: Sequence[str]
) -> str | None:
    """Return how a compiled step differs from the graph, or None. All tensors and generators are restored.

    The numbers and gradients are compared with those of the graph, also the tensors that the graph changes, such as
    running averages. The update is compared with the one that the optimiser of torch makes from the same gradients.
    Everything has to agree within the rounding errors of sums in another order.

    Args:
        step: the compiled step.
        run: the graph.
        arguments: the tensors that the programs take.
        names: the names of the outputs of the graph.
    """
    state = _State(step)
    try:
        expected = run(*arguments)
        random, tensors = RandomState.capture(), state.current()
        state.restore()
        outputs = step(arguments)
        difference = first_difference(names, outputs, expected, coarsest_of([*arguments, *step.held]))
        if difference is not None:
            return f"its {difference} differs from the graph's"
        if not torch.equal(RandomState.capture().torch, random.torch):
            return "it draws other numbers than the graph"
        changed = state.current()
        others = _other_tensors(step)
        is_other = [id(tensor) in others for tensor in step.changed_tensors]
        if not _are_close(changed, tensors, is_other):
            return "it changes a buffer in another way than the graph"
        if not step.updates:
            return None
        state.restore()
        step.eager_update(outputs[step.count :])
        is_updated = [not is_other_tensor for is_other_tensor in is_other]
        agrees = _are_close(changed, state.current(), is_updated)
        return None if agrees else "it updates the parameters in another way than the optimiser"
    finally:
        state.restore()
        for parameter in step.parameters:
            parameter.grad = None


def _other_tensors(step: CompiledStep) -> set[int]:
    """Return the ids of the tensors of a graph that are not parameters of the step."""
    trained = {id(parameter) for parameter in step.parameters}
    return {id(tensor) for tensor in step.held} - trained


def _are_close(first: Sequence[Tensor], second: Sequence[Tensor], chosen: Sequence[bool]) -> bool:
    """Return whether the chosen ones of two lists of tensors agree within rounding."""
    triples = zip(first, second, chosen, strict=True)
    return all(is_close(ours, theirs) for ours, theirs, is_chosen in triples if is_chosen)


def median_seconds(step: CompiledStep, run: Callable[..., Outputs], arguments: Sequence[Tensor]) -> tuple[float, float]:
    """Return the median time of a compiled step, and of the graph and the optimiser of torch, in seconds.

    All tensors and generators are restored.

    Args:
        step: the compiled step.
        run: the graph.
        arguments: the tensors that the programs take.
    """
    state = _State(step)
    seconds: tuple[list[float], list[float]] = [], []
    try:
        for _ in range(_TIMED_STEPS):
            begun = time.perf_counter()
            step.finish(step(arguments))
            middle = time.perf_counter()
            step.eager_update(run(*arguments)[step.count :])
            seconds[0].append(middle - begun)
            seconds[1].append(time.perf_counter() - middle)
        return statistics.median(seconds[0]), statistics.median(seconds[1])
    finally:
        state.restore()


class _State:
    """The tensors and the generators that a step changes, as they were when this object was made."""

    def __init__(self, step: CompiledStep) -> None:
        self._tensors = step.changed_tensors
        self._former = self.current()
        self._random = RandomState.capture()

    def current(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._tensors]

    def restore(self) -> None:
        self._random.restore()
        with torch.no_grad():
            for tensor, former in zip(self._tensors, self._former, strict=True):
                if not torch.equal(tensor, former):  # constants may be expanded, and cannot be written
                    tensor.copy_(former)
