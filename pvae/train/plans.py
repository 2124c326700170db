"""`StepPlans`: how the step of each parameter group runs for each kind of batch, as a graph or eagerly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pvae.errors import first_line
from pvae.train.computation import Computation
from pvae.train.graph.agreement import first_difference
from pvae.train.graph.preserve import PreservedState, preserve_state
from pvae.train.graph.trace import Outputs, trace

__all__ = ["Plan", "StepPlans"]


@dataclass
class Plan:
    """How the step of one parameter group runs for one kind of batch.

    Attributes:
        run: a function of the arguments that returns the numbers and the gradients.
        parameters: the parameters of the gradients.
    """

    run: Callable[..., Outputs]
    parameters: list[Tensor]


class StepPlans:
    """Makes and keeps the plans of a training.

    Args:
        computation: the computation of one step.
        graph: whether to trace the computation to a graph, once for each kind of batch.

    Attributes:
        graph: whether steps run as graphs; False after a fall-back.
        fallback: the reason for a fall-back to eager steps, or None.
        names: the names of the numbers of a step by parameter group, known after its first run.
    """

    def __init__(self, computation: Computation, *, graph: bool) -> None:
        self.computation, self.graph = computation, graph
        self.fallback: str | None = None
        self.names: dict[str, tuple[str, ...]] = {}
        self._plans: dict[Any, Plan] = {}

    def plan(self, player: str, arguments: tuple[Tensor, ...]) -> Plan:
        """Return the plan for a parameter group and a kind of batch; it is made at first use.

        Args:
            player: the parameter group that is updated on its own, or ``"all"``.
            arguments: the tensors that the programs take; their shapes and dtypes decide the kind of batch.
        """
        key = self._key(player, arguments)
        known = self._plans.get(key)
        if known is None:
            known = self._plans[key] = self._make(player, arguments)
        return known

    def clear(self) -> None:
        """Forget all plans, so that the next steps trace again."""
        self._plans.clear()

    def recheck(self, arguments: tuple[Tensor, ...], *, expected_to_change: bool) -> None:
        """Compare the graphs for a kind of batch with the eager step; numbers of the programs are frozen in a graph.

        Args:
            arguments: the tensors that the programs take; no state is changed.
            expected_to_change: if a graph differs, trace again (a callback has changed a number). Otherwise continue
                with eager steps, after one warning, because the programs change by themselves.
        """
        if not self.graph:
            return
        for player in self.computation.parameters.players:
            plan = self._plans.get(self._key(player, arguments))
            if plan is None:
                continue
            with self._preserved_state():
                _, expected = self.computation(arguments, player, self.computation.count(arguments))
            reason = self._difference(plan.run, expected, arguments, player)
            if reason is not None:
                self.clear()
                if not expected_to_change:
                    self._fall_back(f"{reason} since the programs have changed")
                return

    @staticmethod
    def _key(player: str, arguments: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return (player, *[(argument.shape, argument.dtype) for argument in arguments])

    def _make(self, player: str, arguments: tuple[Tensor, ...]) -> Plan:
        with self._preserved_state():  # a layout that is not known yet is found by a run of the programs
            count = self.computation.count(arguments)

        def eager(*values: Tensor) -> Outputs:
            names, outputs = self.computation(values, player, count)
            self.names.setdefault(player, names)
            return outputs

        run = self._traced(eager, player, arguments) if self.graph else None
        return Plan(run or eager, list(self.computation.parameters.of(player)))

    def _traced(
        self, eager: Callable[..., Outputs], player: str, arguments: tuple[Tensor, ...]
    ) -> Callable[..., Outputs] | None:
        """Return the step as a graph that agrees with the eager step on the same draws; None after a fall-back."""
        with self._preserved_state() as state:
            expected = eager(*arguments)
            reason = state.untraceable_change()
        if reason is None:
            try:
                with self._preserved_state():
                    run = trace(eager, arguments)
                reason = self._difference(run, expected, arguments, player)
            except Exception as error:  # tracing a user's code may raise any error; each leads to eager steps
                reason = f"{type(error).__name__}: {first_line(error)}"
        if reason is None:
            return run
        self._fall_back(reason)
        return None

    def _fall_back(self, reason: str) -> None:
        self.graph, self.fallback = False, reason
        self.clear()
        warnings.warn(f"The step cannot be traced to a graph, so it runs eagerly: {reason}", stacklevel=3)

    def _difference(
        self, run: Callable[..., Outputs], expected: Outputs, arguments: tuple[Tensor, ...], player: str
    ) -> str | None:
        """Return the reason why a graph does not agree with the eager step, or None."""
        with self._preserved_state():
            outputs = run(*arguments)
        gradients = [f"the gradient of {name}" for name in self.computation.parameters.names(player)]
        name = first_difference([*self.names[player], *gradients], outputs, expected)
        return None if name is None else f"its {name} differs from the eager step's"

    def _preserved_state(self) -> AbstractContextManager[PreservedState]:
        parameters = self.computation.parameters
        modules = [*parameters.programs.modules, parameters.objective]
        return preserve_state(parameters.latent_model, [module for module in modules if isinstance(module, nn.Module)])
