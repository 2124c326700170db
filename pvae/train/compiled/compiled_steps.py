"""`CompiledSteps`: whether the steps of a training are compiled, and the compiled steps."""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pvae.errors import first_line
from pvae.products import ProductChoices
from pvae.train.compiled.compiled_step import CompiledStep, OptimiserChangedError
from pvae.train.compiled.expected_gain import expect_gain, largest_saving
from pvae.train.compiled.step_agreement import find_disagreement, median_seconds
from pvae.train.compiled.update_rules import has_state
from pvae.train.graph.product_graph import with_fast_products
from pvae.train.graph.trace import StepGraph
from pvae.train.step_plan import Plan

__all__ = ["CompiledSteps"]

_LOG = logging.getLogger(__name__)
#: With step="auto", compiling is decided after this number of steps.
_STEPS_BEFORE_CHOICE = 25
#: With step="auto", the expected saving must be at least this multiple of the expected cost.
_MARGIN = 1.5
#: A compiled step that takes more than this part of the time of the graph is not used.
_LARGEST_SHARE = 0.97


class CompiledSteps:
    """Decides whether steps are compiled, compiles them, and keeps them.

    Only steps on batches of the full size are compiled; a smaller last batch of an epoch runs as a graph. So a resumed
    training compiles the same steps, whichever batch comes first.

    Args:
        asked: the option ``step``: ``"compile"``, ``"auto"``, or another one, with which nothing is compiled.
        optimiser: the optimiser.
        clip: the largest norm of all gradients together; None for no limit.

    Attributes:
        used: ``"compile"``, ``"graph"`` or ``"eager"`` once it is decided, else "".
        former: how the steps of the run that is resumed ran; "" if it is not known.
        steps_left: returns the number of steps that the training still takes if one takes some seconds.
        note: shows a line to the user.
        products: the libraries of the matrix products of compiled steps.
    """

    def __init__(self, asked: str, optimiser: Optimizer, clip: float | None) -> None:
        self.asked, self.optimiser, self.clip = asked, optimiser, clip
        self.used = "" if asked == "auto" else asked
        self.former = ""
        self._is_recorded = False
        self.steps_left: Callable[[float], float] = lambda seconds: 0.0
        self.note: Callable[[str], None] = lambda line: None
        self.products = ProductChoices("aten")
        self._steps: dict[str, tuple[Plan, CompiledStep]] = {}
        self._seconds: list[float] = []
        self._thread_seconds: list[float] = []

    def keep(self, recorded: Mapping[str, str]) -> None:
        """Keep the decision of the run that is resumed, if it had the same option ``step``.

        Args:
            recorded: the option and the decision of that run; empty if they are not known.
        """
        self.former = recorded.get("used", "")
        if recorded.get("asked") == self.asked and self.former:
            self.used, self._is_recorded = self.former, True

    def clear(self) -> None:
        """Forget the compiled steps, because parameters were replaced."""
        self._steps.clear()

    def add_time(self, seconds: float, thread_seconds: float) -> None:
        """Count the time of one step that ran as a graph.

        Args:
            seconds: the time by the clock.
            thread_seconds: the CPU time of this thread, which other programs do not lengthen.
        """
        if self.asked == "auto" and not self.used:
            self._seconds.append(seconds)
            self._thread_seconds.append(thread_seconds)

    def find(
        self, plan: Plan, player: str, arguments: tuple[Tensor, ...], names: Callable[[], Sequence[str]]
    ) -> CompiledStep | None:
        """Return the compiled step for a plan; None if the graph or the eager step is to run.

        Args:
            plan: the plan of a batch of the full size.
            player: the parameter group that is updated.
            arguments: the tensors that the programs take.
            names: returns the names of the outputs of the graph.
        """
        if plan.graph is None or self.used not in ("", "compile"):
            return None
        known = self._steps.get(player)
        if known is not None and known[0] is plan:
            return known[1]
        if known is not None:
            self._use_graph("the programs read a Python value that has changed, or batches have several shapes")
            return None
        if not has_state(self.optimiser, plan.parameters_with_gradient()) or not self._is_wanted(plan, arguments):
            return None
        return self._compile(plan, player, arguments, names())

    def _is_wanted(self, plan: Plan, arguments: tuple[Tensor, ...]) -> bool:
        """Return whether to compile; with step="auto", this is decided after some steps."""
        if self.used or len(self._seconds) < _STEPS_BEFORE_CHOICE:
            return self.used == "compile"
        reason = self._reason_for_graph(plan, arguments)
        self.used = "compile" if reason is None else "graph"
        if reason is not None:
            self.note(f"step: graph, because {reason}")
        return self.used == "compile"

    def _reason_for_graph(self, plan: Plan, arguments: tuple[Tensor, ...]) -> str | None:
        """Return why compiling is not expected to pay in the steps that are left; None if it is."""
        if not all(parameter.device.type == "cpu" for parameter in plan.parameters):
            return "step='auto' compiles only on the CPU; step='compile' does it on other devices too"
        left = self.steps_left(statistics.median(self._seconds[-16:]))
        seconds = statistics.median(self._thread_seconds[-16:])
        graph = (plan.fast or plan.graph).module  # type: ignore[union-attr]
        most, bound = largest_saving(graph, seconds), "at most"
        if left * most.saving >= _MARGIN * most.cost:  # otherwise the time of its operations decides nothing
            most, bound = expect_gain(graph, arguments, seconds), "about"
        if left * most.saving >= _MARGIN * most.cost:
            return None
        return (
            f"compiling takes about {most.cost:.0f} s and saves {bound} {left * most.saving:.0f} s "
            f"({left:.0f} steps of {1e3 * seconds:.2f} ms are left)"
        )

    def _compile(
        self, plan: Plan, player: str, arguments: tuple[Tensor, ...], names: Sequence[str]
    ) -> CompiledStep | None:
        graph = plan.fast or plan.graph
        begun = time.monotonic()
        random = torch.get_rng_state()
        try:
            step = self._made(plan, plan.graph, arguments)  # type: ignore[arg-type]
            reason = find_disagreement(step, graph.run, arguments, names)  # type: ignore[union-attr]
        except Exception as error:  # a compiler may raise any error, and the graph computes the same numbers
            reason = f"{type(error).__name__}: {first_line(error)}"
        torch.set_rng_state(random)
        _LOG.debug("compile the step of %s: %.3f s", player, time.monotonic() - begun)
        if reason is not None:
            self._use_graph(reason)
            return None
        if self.asked == "auto" and not self._is_faster(step, graph.run, arguments, time.monotonic() - begun):  # type: ignore[union-attr]
            return None
        self._steps[player] = plan, step
        return step

    def _made(self, plan: Plan, graph: StepGraph, arguments: tuple[Tensor, ...]) -> CompiledStep:
        chosen = with_fast_products(graph, self.products, is_compiled=True) or graph
        return CompiledStep(chosen.module, plan.parameters, self.optimiser, self.clip, arguments)

    def _is_faster(
        self, step: CompiledStep, run: Callable[..., Any], arguments: tuple[Tensor, ...], compiling: float
    ) -> bool:
        """Return whether a compiled step is faster than the graph, by a few timed steps of each.

        Report it in a line.
        """
        if (
            self._steps or self._is_recorded
        ):  # it was decided already, for another parameter group or before the training was interrupted
            return True
        compiled, graph = median_seconds(step, run, arguments)
        is_faster = compiled < _LARGEST_SHARE * graph
        self.used = "compile" if is_faster else "graph"
        times = f"{1e3 * compiled:.2f} ms a step, and {1e3 * graph:.2f} ms as a graph; compiled in {compiling:.0f} s"
        choice = "compile" if is_faster else "graph, because a compiled step is not faster"
        self.note(f"step: {choice} ({times})")
        return is_faster

    def _use_graph(self, reason: str) -> None:
        self.used = "graph"
        self._steps.clear()
        warnings.warn(f"The step cannot be compiled, so it runs as a graph: {reason}", stacklevel=6)

    def run(self, step: CompiledStep, arguments: tuple[Tensor, ...]) -> tuple[Tensor | None, ...] | None:
        """Return the outputs of a compiled step; None if the graph has to run.

        Args:
            step: the compiled step.
            arguments: the tensors that the programs take.
        """
        if not step.is_ready:
            return None
        try:
            return step(arguments)
        except OptimiserChangedError as error:
            self._use_graph(str(error))
            return None
