"""`Plan`: how the step of one parameter group runs for one kind of batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pvae.train.graph.agreement import has_equal_content
from pvae.train.graph.captured_graph import CapturedGraph
from pvae.train.graph.product_graph import ProductGraph
from pvae.train.graph.trace import Outputs, StepGraph

__all__ = ["Plan"]

#: The number of further batches on which a graph is compared with the eager step, before it updates the parameters.
_COMPARISONS = 2


@dataclass
class Plan:
    """How the step of one parameter group runs for one kind of batch.

    Attributes:
        eager: a function of the arguments that returns the numbers and the gradients.
        parameters: the parameters of the gradients.
        graph: the same function as a graph with the same bits, or None.
        fast: the graph with the matrix products of the fastest libraries; None if torch computes them all.
        captured: the graph as one CUDA graph, or None.
        comparisons: the number of batches of other content on which the graph has agreed with the eager step.
        last_compared: the arguments of the last such batch while more are needed, else None.
        is_stale: whether a Python value that the programs can read has changed since the trace.
    """

    eager: Callable[..., Outputs]
    parameters: list[Tensor]
    graph: StepGraph | None = None
    fast: ProductGraph | None = None
    captured: CapturedGraph | None = None
    comparisons: int = 0
    last_compared: tuple[Tensor, ...] | None = None
    is_stale: bool = False

    def needs_comparison(self, arguments: tuple[Tensor, ...]) -> bool:
        """Return whether the graph is to be compared with the eager step before it runs on these arguments."""
        if self.graph is None or self.comparisons >= _COMPARISONS:
            return False
        return self.last_compared is None or not has_equal_content(arguments, self.last_compared)

    def agrees_on(self, arguments: tuple[Tensor, ...]) -> None:
        """Count a batch on which the graph agrees with the eager step."""
        self.comparisons += 1
        needs_more = self.comparisons < _COMPARISONS
        self.last_compared = arguments if needs_more else None
        self.is_stale = self.is_stale and needs_more

    def parameters_with_gradient(self) -> list[Tensor]:
        """Return the parameters that have a gradient in the graph."""
        if self.graph is None:
            return []
        outputs = self.graph.outputs
        gradients = outputs[len(outputs) - len(self.parameters) :]  # a group may have no parameters
        return [p for p, gradient in zip(self.parameters, gradients, strict=True) if gradient is not None]

    def mark_stale(self) -> None:
        """Let the graph be compared again at its next steps."""
        self.is_stale, self.comparisons, self.last_compared = True, 0, None
