"""One update of the parameters: objective, gradients, optimiser; run eagerly or as a traced graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pvae.errors import first_line
from pvae.programs.binding import Programs
from pvae.train.graph.preserve import Frozen, unmoved
from pvae.train.graph.trace import Outputs, trace
from pvae.train.optimisers import adopt
from pvae.train.parameters import Parameters

__all__ = ["Computation", "Stepper"]


@dataclass(frozen=True)
class Computation:
    """What one step computes, as Pyro runs it: the objective's terms and gradients, in nats per datum.

    Attributes:
        programs: model and guide.
        objective: gives ``terms``.
        parameters: what is differentiated.
        autocast: the type for `torch.autocast`, or None.
    """

    programs: Programs
    objective: Any
    parameters: Parameters
    autocast: torch.dtype | None = None

    def count(self, arguments: tuple[Tensor, ...]) -> int:
        """Return the number of data that the loss of these arguments stands for."""
        return self.programs.bound_with(arguments).count

    def terms(self, arguments: tuple[Tensor, ...], player: str) -> Any:
        """Return the objective's terms, sums over the data."""
        model, guide = self.programs.model, self.programs.guide
        if self.autocast is None:
            return self.objective.terms(model, guide, arguments, {}, player)
        # the cache of casts would hold a tracer's tensors, and let the graph differ from the eager step
        with torch.autocast(arguments[0].device.type, dtype=self.autocast, cache_enabled=False):
            return self.objective.terms(model, guide, arguments, {}, player)

    def __call__(self, arguments: tuple[Tensor, ...], player: str, count: int) -> tuple[tuple[str, ...], Outputs]:
        """Return names of the numbers; and the numbers per datum followed by the gradient of each parameter."""
        terms = self.terms(arguments, player)
        if self.parameters.appeared():
            self.parameters.collect()
        surrogate = terms.surrogate / count
        parameters = self.parameters.of(player)
        if surrogate.requires_grad and parameters:
            gradients: Outputs = torch.autograd.grad(surrogate, parameters, allow_unused=True)
        else:
            gradients = (None,) * len(parameters)
        numbers = {"loss": terms.loss, **terms.named}
        return tuple(numbers), (*[number.detach() / count for number in numbers.values()], *gradients)


class _Plan(NamedTuple):
    """How one player's step runs for one kind of batch."""

    run: Callable[..., Outputs]
    numbers: int
    parameters: list[Tensor]


class Stepper:
    """Updates the parameters by one batch at a time.

    Args:
        computation: what is computed.
        optimiser: one torch optimiser over all parameters.
        graph: whether to trace the computation once per kind of batch, and to run the trace.
        clip: the largest norm of all gradients of a player together, nats per datum; None for no limit.
    """

    def __init__(
        self,
        computation: Computation,
        optimiser: torch.optim.Optimizer,
        *,
        graph: bool,
        clip: float | None = None,
    ) -> None:
        self.computation, self.optimiser, self.clip = computation, optimiser, clip
        self.graph = graph
        self.fallback: str | None = None
        self._names: dict[str, tuple[str, ...]] = {}
        self._plans: dict[Any, _Plan] = {}
        self._held = dict(computation.parameters.named)

    @property
    def names(self) -> tuple[str, ...]:
        """What a step returns: the first player's loss and named terms; then the loss of each other player, and those
        terms that nobody before has named.
        """
        first, *others = self.computation.parameters.players
        names = list(self._names.get(first, ()))
        for player in others:
            names += [f"{player}_loss", *self._further(player)]
        return tuple(names)

    def _further(self, player: str) -> tuple[str, ...]:
        """The named terms of a player that those before him have not."""
        players = self.computation.parameters.players
        before = [name for each in players[: players.index(player)] for name in self._names.get(each, ())]
        return tuple(name for name in self._names.get(player, ()) if name not in before)

    def __call__(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Update by one batch; return the numbers of `names`, 0-d tensors in nats per datum."""
        arguments = self.computation.programs.arguments(batch)
        first, *others = self.computation.parameters.players
        numbers = self._phase(first, arguments)
        for player in others:
            found, further = self._phase(player, arguments), self._further(player)
            numbers += found[:1]
            if further:
                numbers += tuple(each for name, each in zip(self._names[player], found, strict=True) if name in further)
        return numbers

    def _phase(self, player: str, arguments: tuple[Tensor, ...]) -> tuple[Any, ...]:
        """Update one player as often as the objective asks; return the numbers before the first update."""
        updates = self.computation.objective.updates.get(player, 1)
        tolerance = self.computation.objective.tolerance
        numbers: tuple[Any, ...] = ()
        before = float("nan")
        for _ in range(updates):
            found = self._one(player, arguments)
            numbers = numbers or found
            if tolerance is not None:  # a number is read from the device only where a phase may end early
                loss = float(found[0])
                if abs(before - loss) < tolerance:
                    break
                before = loss
        return numbers

    def _one(self, player: str, arguments: tuple[Tensor, ...]) -> tuple[Any, ...]:
        key = (player, *[(each.shape, each.dtype) for each in arguments])
        plan = self._plans.get(key) or self._plan(key, player, arguments)
        outputs = plan.run(*arguments)
        self._update(self._parameters(plan, player), outputs[plan.numbers :])
        return outputs[: plan.numbers]

    def refresh(self) -> None:
        """Look for parameters that are new or replaced since the last step; forget graphs of the old ones."""
        if self.computation.parameters.collect():
            self._plans.clear()
        parameters = self.computation.parameters
        adopt(self.optimiser, parameters.named, self._held, parameters.group_of)

    def recheck(self, batch: Mapping[str, Tensor], *, expected_to_change: bool) -> None:
        """Ask whether a graph still agrees with the programs: numbers of theirs are frozen in it.

        Args:
            batch: one to compare the two on; nothing moves.
            expected_to_change: where they differ, trace again (a callback has changed a number); else go on eagerly,
                with one warning, since the programs change by themselves.
        """
        arguments = self.computation.programs.arguments(batch)
        for key, plan in list(self._plans.items()):
            kind = (key[0], *[(each.shape, each.dtype) for each in arguments])
            if not self.graph or key != kind:
                continue
            with self._unmoved():
                _, expected = self.computation(arguments, key[0], self.computation.count(arguments))
            reason = self._difference(plan.run, expected, arguments, key[0])
            if reason is None:
                continue
            self._plans.clear()
            if not expected_to_change:
                self._fall_back(f"{reason} since the programs have changed")
            return

    def _parameters(self, plan: _Plan, player: str) -> list[Tensor]:
        if self.graph:
            return plan.parameters
        if self.computation.parameters.appeared() or len(plan.parameters) != len(
            self.computation.parameters.of(player)
        ):
            self.refresh()
        return self.computation.parameters.of(player)

    def _update(self, parameters: list[Tensor], gradients: Outputs) -> None:
        if self.clip is not None:
            gradients = clipped(gradients, self.clip)
        if len(self.computation.parameters.players) > 1:
            for each in self.computation.parameters.named.values():
                each.grad = None
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimiser.step()

    def _plan(self, key: Any, player: str, arguments: tuple[Tensor, ...]) -> _Plan:
        with self._unmoved():  # the first look at a layout runs the programs
            count = self.computation.count(arguments)

        def eager(*values: Tensor) -> Outputs:
            names, outputs = self.computation(values, player, count)
            self._names.setdefault(player, names)
            return outputs

        run = self._traced(eager, player, arguments) if self.graph else None
        parameters = self.computation.parameters.of(player)
        if player not in self._names:
            with self._unmoved():
                eager(*arguments)
        plan = _Plan(run or eager, len(self._names[player]), list(parameters))
        self._plans[key] = plan
        return plan

    def _traced(
        self, eager: Callable[..., Outputs], player: str, arguments: tuple[Tensor, ...]
    ) -> Callable[..., Outputs] | None:
        """The computation as a graph, checked against the eager one on the same draws; None where that fails."""
        with self._unmoved() as frozen:
            expected = eager(*arguments)
            reason = frozen.beyond_reach()
        if reason is None:
            try:
                with self._unmoved():
                    run = trace(eager, arguments)
                reason = self._difference(run, expected, arguments, player)
            except Exception as error:  # user code is run as it was not meant to be: any error counts
                reason = f"{type(error).__name__}: {first_line(error)}"
        if reason is None:
            return run
        self._fall_back(reason)
        return None

    def _fall_back(self, reason: str) -> None:
        self.graph, self.fallback = False, reason
        self._plans.clear()
        warnings.warn(f"The step cannot be traced to a graph, so it runs eagerly: {reason}", stacklevel=3)

    def _difference(
        self, run: Callable[..., Outputs], expected: Outputs, arguments: tuple[Tensor, ...], player: str
    ) -> str | None:
        """What differs between a graph and the eager step on the same draws, or None."""
        with self._unmoved():
            outputs = run(*arguments)
        names = [
            *self._names[player],
            *(f"the gradient of {name}" for name in self.computation.parameters.names(player)),
        ]
        least = _rounding(expected[0])
        for name, ours, theirs in zip(names, outputs, expected, strict=True):
            if not _same(ours, theirs, least):
                return f"its {name} differs from the eager step's"
        return None

    def _unmoved(self) -> AbstractContextManager[Frozen]:
        parameters = self.computation.parameters
        modules = [*parameters.programs.modules, parameters.objective]
        return unmoved(parameters.latent_model, [each for each in modules if isinstance(each, nn.Module)])


def _rounding(loss: Tensor | None) -> float:
    """What cannot be told from 0 in a sum of terms as large as the loss: near an optimum a gradient is all rounding."""
    if loss is None or not loss.is_floating_point():
        return 0.0
    return float(loss.abs().nan_to_num(0.0, posinf=0.0)) * torch.finfo(loss.dtype).eps


def _same(ours: Tensor | None, theirs: Tensor | None, least: float = 0.0) -> bool:
    """Whether two results agree, within the rounding of sums in another order, which is `least` at least.

    Most graphs agree in every bit. `TraceEnum_ELBO` always leaves out impossible values in a graph, and eagerly
    only where there are some; CUDA's kernels add in any order.
    """
    if ours is None or theirs is None:
        return ours is theirs
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    if not ours.is_floating_point() or not ours.numel():
        return torch.equal(ours, theirs)
    room = 64 * torch.finfo(ours.dtype).eps * (16 if ours.is_cuda else 1)
    largest = theirs.abs().nan_to_num(0.0, posinf=0.0).amax()
    return bool(torch.isclose(ours, theirs, rtol=room, atol=max(float(room * largest), least), equal_nan=True).all())


def clipped(gradients: Outputs, limit: float) -> Outputs:
    """Return gradients scaled down together so that their norm is at most `limit`."""
    held = [each for each in gradients if each is not None]
    if not held:
        return gradients
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(held)))
    factor = torch.clamp(limit / (norm + 1e-6), max=1.0)
    scaled = iter(torch._foreach_mul(held, factor))
    return tuple(None if each is None else next(scaled) for each in gradients)
