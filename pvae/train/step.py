"""`Stepper`: one update of the parameters by one batch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.memory_layout import keep_state_in_layout, set_gradients, strides_of
from pvae.products import ProductChoices
from pvae.train.clipping import clipped
from pvae.train.compiled.compiled_steps import CompiledSteps
from pvae.train.computation import Computation
from pvae.train.distributed.gradient_reduction import GradientReduction
from pvae.train.distributed.objective_state import advance_objective
from pvae.train.gradient_hooks import call_gradient_hooks, has_gradient_hooks
from pvae.train.graph.trace import Outputs
from pvae.train.optimisers import track_parameters
from pvae.train.plans import StepPlans
from pvae.train.step_plan import Plan

__all__ = ["Stepper"]


class Stepper:
    """Updates the parameters by one batch at a time.

    Args:
        computation: the computation of one step.
        optimiser: one torch optimiser over all parameters.
        graph: whether to trace the computation once per kind of batch, and to run the graph.
        clip: the largest norm of all gradients of a parameter group together, nats per datum; None for no limit.
        products: the libraries of the matrix products of a graph; None for those of torch.
        compiled: which steps are compiled; None for none.
        full_size: the number of data of the batches of which the steps may be compiled; None for all.
        reduction: the sums over the processes of the training; None for one process.
        capture: whether a graph is launched as one CUDA graph.
    """

    def __init__(
        self,
        computation: Computation,
        optimiser: torch.optim.Optimizer,
        *,
        graph: bool,
        clip: float | None = None,
        products: ProductChoices | None = None,
        compiled: CompiledSteps | None = None,
        full_size: int | None = None,
        reduction: GradientReduction | None = None,
        capture: bool = False,
    ) -> None:
        self.computation, self.optimiser, self.clip = computation, optimiser, clip
        self.parameters = computation.parameters
        self.products = ProductChoices("aten") if products is None else products
        self._plans = StepPlans(computation, graph=graph, products=self.products, capture=capture)
        self.compiled = CompiledSteps("graph", optimiser, clip) if compiled is None else compiled
        self.compiled.products = self.products
        self.full_size, self._is_full = full_size, True
        self.reduction = reduction
        self._known_parameters = dict(self.parameters.named)
        self._strides: list[tuple[int, ...]] = []

    @property
    def graph(self) -> bool:
        """Whether steps run as graphs."""
        return self._plans.graph

    @property
    def fallback(self) -> str | None:
        """The reason why steps run eagerly although graphs were asked for, or None."""
        return self._plans.fallback

    @property
    def how(self) -> str:
        """How full batches run now: "eager", "graph" or "compile"."""
        if not self.graph:
            return "eager"
        return "compile" if self.compiled.used == "compile" else "graph"

    def record(self) -> dict[str, Any]:
        """Return what a resumed training needs for the same bits: the libraries of products, and how steps run."""
        used = self.how if self.compiled.used else ""
        return {"products": self.products.record(), "how": {"asked": self.compiled.asked, "used": used}}

    def keep(self, recorded: Mapping[str, Any]) -> None:
        """Keep the choices that `record` returned in the run that is resumed.

        Args:
            recorded: the values of a checkpoint; those of earlier versions have no choices.
        """
        self.products.keep(recorded.get("products", {}))
        self.compiled.keep(recorded.get("how", {}))

    def changes_of_bits(self) -> list[str]:
        """Return one line per reason why last bits of numbers may differ from those of an uninterrupted training."""
        lines = []
        if self.products.foreign:
            lines.append(f"the libraries of the matrix products are chosen again: {self.products.foreign}")
        former, used = self.compiled.former, self.how
        if former not in ("", used) and ("compile" in (former, used) or self.products.matmul == "auto"):
            lines.append(f"the steps run by {used!r} from now on; they ran by {former!r} before")
        return lines

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the numbers that a step returns.

        They are the loss and the named terms of the first player; then, for each other player, its loss and its terms
        that no earlier player has.
        """
        first, *later = self.parameters.players
        names = list(self._plans.names.get(first, ()))
        for player in later:
            names += [f"{player}_loss", *self._new_terms(player)]
        return tuple(names)

    def _new_terms(self, player: str) -> tuple[str, ...]:
        """Return the named terms of a player that no earlier player has."""
        players = self.parameters.players
        known: set[str] = set()
        for before in players[: players.index(player)]:
            known.update(self._plans.names.get(before, ()))
        return tuple(name for name in self._plans.names.get(player, ()) if name not in known)

    def __call__(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Update by one batch; return the numbers of `names`, each of shape (), in nats per datum."""
        arguments = self.computation.programs.arguments(batch)
        if self._plans.graph:
            self._is_full = self.full_size is None or not isinstance(batch, Batch) or batch.size == self.full_size
        first, *later = self.parameters.players
        numbers = self._phase(first, arguments)
        for player in later:
            phase_numbers = self._phase(player, arguments)
            new_terms = self._new_terms(player)
            named = dict(zip(self._plans.names[player], phase_numbers, strict=True))
            numbers += (phase_numbers[0], *(named[name] for name in new_terms))
        with torch.no_grad():
            means = dict(zip(self.names, numbers, strict=True))
            self.computation.objective.end_step(means)
            if self.reduction is not None:
                advance_objective(self.computation.objective, means)
        return numbers

    def _phase(self, player: str, arguments: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """Update one player as often as the objective asks; return the numbers before the first update."""
        updates = self.computation.objective.updates.get(player, 1)
        tolerance = self.computation.objective.tolerance
        first_numbers: tuple[Any, ...] = ()
        previous_loss = math.nan
        for _ in range(updates):
            numbers = self._update(player, arguments)
            first_numbers = first_numbers or numbers
            if tolerance is not None:  # the loss is read from the device only if a phase may end early
                loss = float(numbers[0])
                if abs(previous_loss - loss) < tolerance:
                    break
                previous_loss = loss
        return first_numbers

    def _update(self, player: str, arguments: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """Update one player once; return its numbers."""
        if self._plans.graph:
            self._follow_layouts()
        if self.reduction is not None:
            return self._update_in_all_processes(self.reduction, player, arguments)
        plan = self._plans.plan(player, arguments)
        is_graph = self._plans.graph
        outputs = self._compiled_outputs(plan, player, arguments) if is_graph and self._is_full else None
        if outputs is None:
            begun, begun_in_thread = time.perf_counter(), time.thread_time()
            outputs = self._plans.run(plan, arguments)
            gradients = outputs[len(self._plans.names[player]) :]
            self._apply(self._parameters_of_plan(plan, player), gradients)
            if is_graph:
                self.compiled.add_time(time.perf_counter() - begun, time.thread_time() - begun_in_thread)
        return outputs[: len(self._plans.names[player])]

    def _update_in_all_processes(
        self, reduction: GradientReduction, player: str, arguments: tuple[Tensor, ...]
    ) -> tuple[Any, ...]:
        """Update one player once by the mean gradient over the data of all processes; return the mean numbers."""
        with reduction.reported(player):
            plan = self._plans.plan(player, arguments)
            outputs = self._plans.run(plan, arguments)
            parameters = self._parameters_of_plan(plan, player)
        outputs = reduction.mean(player, outputs, parameters)
        count = len(self._plans.names[player])
        self._apply(parameters, outputs[count:])
        return outputs[:count]

    def _compiled_outputs(self, plan: Plan, player: str, arguments: tuple[Tensor, ...]) -> Outputs | None:
        """Update by the compiled step and return its outputs; None if there is no compiled step."""
        step = self.compiled.find(plan, player, arguments, lambda: self._plans.output_names(player))
        outputs = None if step is None else self.compiled.run(step, arguments)
        if step is not None and outputs is not None and not step.updates:
            self._apply(plan.parameters, outputs[step.count :])
        return outputs

    def _parameters_of_plan(self, plan: Plan, player: str) -> list[Tensor]:
        """Return the parameters of a plan's gradients; an eager run may have created new ones."""
        # a run collects new parameters
        if not self._plans.graph and len(plan.parameters) != len(self.parameters.of(player)):
            self.refresh()
            plan.parameters = list(self.parameters.of(player))
        return plan.parameters

    def _apply(self, parameters: list[Tensor], gradients: Outputs) -> None:
        if len(self.parameters.players) > 1:
            for parameter in self.parameters.named.values():
                parameter.grad = None
        if has_gradient_hooks(parameters):
            set_gradients(parameters, gradients)
            call_gradient_hooks(parameters)
            gradients = tuple(parameter.grad for parameter in parameters)
        set_gradients(parameters, gradients if self.clip is None else clipped(gradients, self.clip))
        self._follow_layouts()
        self.optimiser.step()

    def _follow_layouts(self) -> None:
        """Let the state of the optimiser, and graphs, follow parameters whose memory has another layout now."""
        strides = strides_of(self.parameters.named.values())
        if strides == self._strides:
            return
        keep_state_in_layout(self.optimiser, self.parameters.named)
        if self._strides:
            self._plans.clear()
            self.compiled.clear()
        self._strides = strides

    def refresh(self, *, within_epoch: bool = False) -> None:
        """Check what has changed since the last step: new or replaced parameters, and Python values.

        Graphs of replaced parameters are forgotten. If a Python value has changed that the programs can read, the
        graphs are compared with the eager step again, and traced again if they differ.

        Args:
            within_epoch: whether this is not the beginning of an epoch. If there are changes after many steps of an
                epoch, steps run eagerly from then on, because new graphs take more time than they save.
        """
        change = "a parameter, a buffer or a training flag" if self.parameters.collect() else None
        if change is not None:
            self._plans.clear()
            self.compiled.clear()
        change = self._plans.look_for_changes() or change
        if within_epoch:
            self._plans.count_change(change)
        track_parameters(self.optimiser, self.parameters.named, self._known_parameters, self.parameters.group_of)
