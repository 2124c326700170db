"""`StepPlans`: how the step of each parameter group runs for each kind of batch, as a graph or eagerly."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pvae.products import ProductChoices
from pvae.train.computation import Computation
from pvae.train.graph.agreement import first_difference
from pvae.train.graph.captured_graph import CapturedGraph
from pvae.train.graph.preserve import preserve_step
from pvae.train.graph.product_graph import ProductGraph, with_fast_products
from pvae.train.graph.python_state import PythonState
from pvae.train.graph.refusal import describe_failure, place_of_program
from pvae.train.graph.trace import Outputs, StepGraph, trace
from pvae.train.step_plan import Plan

__all__ = ["StepPlans"]

#: Steps run eagerly if Python values change after more steps of an epoch than these, of the last `_STEPS_OF_CHANGES`.
_MOST_CHANGES = 3
_LARGEST_SHARE_OF_CHANGES = 0.05
_STEPS_OF_CHANGES = 1000


class StepPlans:
    """Makes and keeps the plans of a training.

    A graph computes a step only after it has agreed with the eager step, on the same draws, on two batches with other
    content. Both comparisons come before the graph updates the parameters, so no update uses a graph that fails a
    comparison.

    The compared graph uses the products of torch, and has the same bits as the eager step. The steps then run a copy of
    it with the products of the fastest libraries, if they agree with torch within rounding.

    Args:
        computation: the computation of one step.
        graph: whether to trace the computation to a graph, once for each kind of batch.
        products: the libraries of the matrix products of a graph.
        capture: whether a graph is launched as one CUDA graph.

    Attributes:
        graph: whether steps run as graphs; False after a fall-back.
        products: the libraries of the matrix products of a graph.
        fallback: the reason for a fall-back to eager steps, or None.
        names: the names of the numbers of a step by parameter group, known after its first run.
    """

    def __init__(self, computation: Computation, *, graph: bool, products: ProductChoices, capture: bool) -> None:
        self.computation, self.graph, self.products, self.capture = computation, graph, products, capture
        self.fallback: str | None = None
        self.names: dict[str, tuple[str, ...]] = {}
        self._plans: dict[Any, Plan] = {}
        self._reads: PythonState | None = None
        self._steps_with_changes: deque[bool] = deque(maxlen=_STEPS_OF_CHANGES)

    def plan(self, player: str, arguments: tuple[Tensor, ...]) -> Plan:
        """Return the plan for a parameter group and a kind of batch; it is made at first use.

        Args:
            player: the parameter group that is updated on its own, or ``"all"``.
            arguments: the tensors that the programs take; their shapes and dtypes decide the kind of batch.
        """
        key = self._key(player, arguments)
        known = self._plans.get(key)
        if known is not None and known.needs_comparison(arguments):
            known = self._compared(known, player, arguments)
        if known is None:
            known = self._plans[key] = self._make(player, arguments)
        return known

    def run(self, plan: Plan, arguments: tuple[Tensor, ...]) -> Outputs:
        """Return the numbers and the gradients of a step; if the graph fails, the eager step computes them.

        Args:
            plan: the plan for this kind of batch.
            arguments: the tensors that the programs take.

        Raises:
            Exception: any error of the eager step.
        """
        if plan.graph is None:
            return plan.eager(*arguments)
        random = torch.get_rng_state()
        try:
            return (plan.captured or plan.fast or plan.graph).run(*arguments)
        except Exception as error:  # the eager step raises the error with the user's line
            torch.set_rng_state(random)
            outputs = plan.eager(*arguments)
            self._fall_back(describe_failure(error))
            return outputs

    def clear(self) -> None:
        """Forget all plans, so that the next steps trace again."""
        self._plans.clear()
        self._reads = None

    def count_change(self, change: str | None) -> None:
        """Let steps run eagerly if something that a graph freezes changes after many steps.

        Args:
            change: what has changed since the last step, or None.
        """
        self._steps_with_changes.append(change is not None)
        changes = sum(self._steps_with_changes)
        if self.graph and changes > max(_MOST_CHANGES, _LARGEST_SHARE_OF_CHANGES * len(self._steps_with_changes)):
            self._fall_back(f"{change} changes after many steps, by a callback or a hook, and a graph would freeze it")

    def look_for_changes(self) -> str | None:
        """Compare the graphs again at their next steps if a Python value that the programs can read has changed.

        Returns:
            The name of a value that has changed or may have changed, or None.
        """
        if not self.graph or self._reads is None:
            return None
        plans = [plan for plan in self._plans.values() if plan.graph is not None]
        captured = frozenset[int]().union(*[plan.graph.captured for plan in plans])  # type: ignore[union-attr]
        change = self._reads.find_change(captured)
        if change is None and not self._reads.is_complete:
            change = "a value that may change unseen"
        has_fixed_values = [plan.graph.has_fixed_values() for plan in plans]  # type: ignore[union-attr]
        for plan, is_fixed in zip(plans, has_fixed_values, strict=True):
            if change is not None or not is_fixed:
                plan.mark_stale()
        if change is not None:
            self._reads = self._find_reads()
        return change if all(has_fixed_values) else change or "a tensor of which the programs read a number"

    @staticmethod
    def _key(player: str, arguments: tuple[Tensor, ...]) -> tuple[Any, ...]:
        kinds: list[Any] = [player]  # a comprehension would be a further call in each step
        for argument in arguments:
            is_plain = isinstance(argument, Tensor) and not argument.is_nested
            kinds.append((argument.shape, argument.stride(), argument.dtype) if is_plain else type(argument))
        return tuple(kinds)

    def _make(self, player: str, arguments: tuple[Tensor, ...]) -> Plan:
        def eager(*values: Tensor) -> Outputs:
            names, outputs = self.computation(values, player)
            self.names.setdefault(player, names)
            return outputs

        graph = self._traced(eager, player, arguments) if self.graph else None
        plan = Plan(eager, list(self.computation.parameters.of(player)), graph)
        if graph is not None:
            plan.fast = self._with_fast_products(graph, player, arguments)
            plan.captured = self._captured(graph, player, arguments) if self.capture else None
            plan.agrees_on(arguments)
            self._reads = self._reads or self._find_reads()
        return plan

    def _with_fast_products(self, graph: StepGraph, player: str, arguments: tuple[Tensor, ...]) -> ProductGraph | None:
        """Return the graph with the fastest products.

        None if torch computes all products, or if they differ by more than rounding.
        """
        fast = with_fast_products(graph, self.products)
        if fast is None:
            return None
        with preserve_step(self.computation.parameters):
            expected = graph.run(*arguments)
        try:
            difference = self._difference(graph, expected, arguments, player, fast)
        except Exception as error:  # a library may refuse a product that it has computed in the measurement
            difference = describe_failure(error)
        if difference is None:
            return fast
        self.products.use_aten(fast.kinds)
        warnings.warn(
            f"The matrix products of the step are computed by torch alone: with the faster libraries, {difference}",
            stacklevel=5,
        )
        return None

    def _captured(self, graph: StepGraph, player: str, arguments: tuple[Tensor, ...]) -> CapturedGraph | None:
        """Return the graph as one CUDA graph that agrees with it on the same draws; None if it does not."""
        with preserve_step(self.computation.parameters):
            expected = graph.run(*arguments)
        try:
            with preserve_step(self.computation.parameters):
                captured = CapturedGraph(graph.run, arguments)
            difference = self._difference(graph, expected, arguments, player, captured)
        except Exception as error:  # CUDA refuses to capture some operations
            difference = describe_failure(error)
        if difference is None:
            return captured
        self.capture = False
        warnings.warn(f"The step runs as a graph, not as one CUDA graph: {difference}", stacklevel=5)
        return None

    def _traced(self, eager: Callable[..., Outputs], player: str, arguments: tuple[Tensor, ...]) -> StepGraph | None:
        """Return the step as a graph that agrees with the eager step on the same draws; None after a fall-back."""
        reason = self._find_reads().unstable
        if reason is None:
            expected, reason = self._expected_and_change(eager, arguments)
        if reason is None:
            try:
                with preserve_step(self.computation.parameters):
                    graph = trace(eager, arguments)
                reason = self._difference(graph, expected, arguments, player)
            except Exception as error:  # tracing a user's code may raise any error; after each error, steps run eagerly
                reason = describe_failure(error)
        if reason is None:
            return graph
        self._fall_back(reason)
        return None

    def _expected_and_change(
        self, eager: Callable[..., Outputs], arguments: tuple[Tensor, ...]
    ) -> tuple[Outputs, str | None]:
        """Return the outputs of the eager step, and a change of Python values that a graph would not make, as text."""
        with preserve_step(self.computation.parameters) as state:
            expected = eager(*arguments)
            reason = state.untraceable_change()
            if not state.reads.has_new_objects():
                return expected, reason
            state.restore_tensors()
            with preserve_step(self.computation.parameters) as later_state:  # only the first run fills caches
                later = eager(*arguments)
                reason = later_state.untraceable_change()
            names = [str(number) for number in range(len(later))]
            if reason is None and first_difference(names, later, expected) is not None:
                reason = "a run reads a value that the run before it has changed, and a graph would freeze it"
            return expected, reason

    def _compared(self, plan: Plan, player: str, arguments: tuple[Tensor, ...]) -> Plan | None:
        """Return a plan if its graph agrees with the eager step on these arguments; None if a new one is needed."""
        expected = self._expected(plan.eager, arguments)
        try:
            reason = self._difference(plan.graph, expected, arguments, player)  # type: ignore[arg-type]
        except Exception as error:  # a graph may fail where the eager step does not
            reason = describe_failure(error)
        if reason is None:
            plan.agrees_on(arguments)
            return plan
        if not plan.is_stale:  # otherwise the programs read a new value, which a new trace includes
            self._fall_back(f"{reason} on another batch")
        return None

    def _fall_back(self, reason: str) -> None:
        place = place_of_program(self.computation.programs.model)
        if ".py:" not in reason and place is not None:
            reason = f"{reason} (model at {place})"
        self.graph, self.fallback = False, reason
        self.clear()
        warnings.warn(f"The step cannot be traced to a graph, so it runs eagerly: {reason}", stacklevel=3)

    def _expected(self, eager: Callable[..., Outputs], arguments: tuple[Tensor, ...]) -> Outputs:
        """Return the outputs of the eager step, which changes no state."""
        with preserve_step(self.computation.parameters):
            return eager(*arguments)

    def _difference(
        self,
        graph: StepGraph,
        expected: Outputs,
        arguments: tuple[Tensor, ...],
        player: str,
        fast: ProductGraph | CapturedGraph | None = None,
    ) -> str | None:
        """Return why a graph, or `fast` in its place, differs from the eager step on the same draws, or None."""
        with preserve_step(self.computation.parameters):
            outputs = (fast or graph).run(*arguments)
            if not graph.has_fixed_values():
                return "a tensor has changed of which the programs read a number, or which decides a shape"
        coarsest = None if fast is None else fast.coarsest
        name = first_difference(self.output_names(player), outputs, expected, coarsest)
        return None if name is None else f"its {name} differs from the eager step's"

    def output_names(self, player: str) -> list[str]:
        """Return the names of the numbers and the gradients of a parameter group, known after its first run."""
        gradients = [f"gradient of {name}" for name in self.computation.parameters.names(player)]
        return [*self.names[player], *gradients]

    def _find_reads(self) -> PythonState:
        with preserve_step(self.computation.parameters) as state:
            return state.reads
