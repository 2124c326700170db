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

__all__ = ["TensorState", "find_disagreement", "median_seconds"]

#: The number of steps of each kind that are timed.
_TIMED_STEPS = 10
#: How often all parameters change in their last digit, and how many times the largest effect still counts as rounding.
_CHANGES_OF_LAST_DIGITS, _TIMES_LAST_DIGIT = 4, 4.0


def find_disagreement(
    step: CompiledStep, run: Callable[..., Outputs], arguments: Sequence[Tensor], names: Sequence[str]
) -> str | None:
    """Return how a compiled step differs from the graph, or None. All tensors and generators are restored.

    The numbers and gradients are compared with those of the graph, also the tensors that the graph changes, such as
    running averages. The update is compared with the one that the optimiser of torch makes from the same gradients.
    Everything has to agree within the rounding errors of sums in another order. Where the step itself makes rounding
    errors larger, for instance by the softmax of large log-densities, the numbers and gradients may differ by little
    more than they change if each parameter changes in its last digit.

    Args:
        step: the compiled step.
        run: the graph.
        arguments: the tensors that the programs take.
        names: the names of the outputs of the graph.
    """
    state = TensorState(step.changed_tensors)
    try:
        expected = run(*arguments)
        random, tensors = RandomState.capture(), state.current()
        state.restore()
        outputs = step(arguments)
        changed = state.current()
        if not torch.equal(RandomState.capture().torch, random.torch):
            return "it draws other numbers than the graph"
        coarsest = coarsest_of([*arguments, *step.held])
        difference = first_difference(names, outputs, expected, coarsest)
        if difference is not None:
            rounding = _rounding_errors(state, step, run, arguments, expected)
            difference = first_difference(names, outputs, expected, coarsest, rounding)
        if difference is not None:
            return f"its {difference} differs from that of the graph"
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


def _rounding_errors(
    state: TensorState,
    step: CompiledStep,
    run: Callable[..., Outputs],
    arguments: Sequence[Tensor],
    expected: Outputs,
) -> list[float]:
    """Return how much of a difference of each output counts as rounding.

    It is a few times the change of the output of the graph if the parameters change in their last digit.
    """
    held = {id(tensor) for tensor in step.held}
    parameters = [parameter for parameter in step.parameters if id(parameter) in held]
    largest = [0.0] * len(expected)
    generator = torch.Generator().manual_seed(0)
    for _ in range(_CHANGES_OF_LAST_DIGITS):
        state.restore()
        with torch.no_grad():
            for parameter in parameters:
                signs = torch.rand(parameter.shape, generator=generator).round().mul(2).sub(1).to(parameter)
                parameter.mul_(1 + torch.finfo(parameter.dtype).eps * signs)
        changes = map(_largest_difference, run(*arguments), expected)
        largest = [max(pair) for pair in zip(largest, changes, strict=True)]
    return [_TIMES_LAST_DIGIT * change for change in largest]


def _largest_difference(first: Tensor | None, second: Tensor | None) -> float:
    """Return the largest absolute difference of two outputs of the graph; 0 for outputs without finite numbers."""
    if first is None or second is None or not first.is_floating_point():
        return 0.0
    differences = (first - second).abs()
    return float(differences[differences.isfinite()].amax()) if differences.isfinite().any() else 0.0


def _other_tensors(step: CompiledStep) -> set[int]:
    """Return the ids of the tensors of a graph that are not parameters of the step."""
    trained = {id(parameter) for parameter in step.parameters}
    return {id(tensor) for tensor in step.held} - trained


def _are_close(first: Sequence[Tensor], second: Sequence[Tensor], chosen: Sequence[bool]) -> bool:
    """Return whether the chosen ones of two lists of tensors agree within rounding."""
    triples = zip(first, second, chosen, strict=True)
    return all(is_close(ours, theirs) for ours, theirs, is_chosen in triples if is_chosen)


def median_seconds(step: CompiledStep, run: Callable[..., Outputs], arguments: Sequence[Tensor]) -> tuple[float, float]:
    """Return the median CPU time of a compiled step, and of the graph and the optimiser of torch, in seconds.

    It is the time of this thread, which other programs do not lengthen.

    All tensors and generators are restored.

    Args:
        step: the compiled step.
        run: the graph.
        arguments: the tensors that the programs take.
    """
    state = TensorState(step.changed_tensors)
    seconds: tuple[list[float], list[float]] = [], []
    try:
        for _ in range(_TIMED_STEPS):
            begun = time.thread_time()
            step.finish(step(arguments))
            middle = time.thread_time()
            step.eager_update(run(*arguments)[step.count :])
            seconds[0].append(middle - begun)
            seconds[1].append(time.thread_time() - middle)
        return statistics.median(seconds[0]), statistics.median(seconds[1])
    finally:
        state.restore()


class TensorState:
    """Tensors and the random generators as they were when this object was made.

    Args:
        tensors: the tensors.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._former = self.current()
        self._random = RandomState.capture()

    def current(self) -> list[Tensor]:
        """Return copies of the tensors as they are now."""
        return [tensor.detach().clone() for tensor in self._tensors]

    def restore(self) -> None:
        """Give the tensors and the generators their former values."""
        self._random.restore()
        with torch.no_grad():
            for tensor, former in zip(self._tensors, self._former, strict=True):
                if not torch.equal(tensor, former):  # constants may be expanded, and cannot be written
                    tensor.copy_(former)
