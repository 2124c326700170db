"""Draws of the gradient of an objective, at fixed parameters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.evaluate.gradient_estimators.block_statistics import GradientBlocks, block_sizes
from pvae.evaluate.gradient_estimators.coordinates import Coordinates
from pvae.objectives import Objective
from pvae.train.computation import Computation
from pvae.train.devices import isolated
from pvae.train.graph.agreement import first_difference
from pvae.train.graph.preserve import preserve_step
from pvae.train.graph.trace import Outputs, trace
from pvae.train.parameters import Parameters

__all__ = ["GradientSampler", "draw_gradients"]


class GradientSampler:
    """Draws the gradient of one objective's loss per datum, as in a training step.

    Args:
        context: the model and the batch.
        objective: the objective, in evaluation mode, in which its state does not change.
        coordinates: the parameters to differentiate.
    """

    def __init__(self, context: EvaluationContext, objective: Objective, coordinates: Coordinates) -> None:
        programs = context.programs
        parameters = Parameters(context.model, programs, objective, context.batch)
        self.model = context.model
        self.objective = objective
        self.coordinates = coordinates
        self.arguments = programs.arguments(context.batch)
        self.computation = Computation(programs, objective, parameters)
        self._slices = coordinates.slices()
        self._graphs: dict[str, Callable[..., Outputs]] = {}

    def draw(self) -> Tensor:
        """Return one draw of the gradient, shape (coordinates,), float64, in nats per datum and unit of a parameter."""
        row = torch.zeros(self.coordinates.size, dtype=torch.float64, device=self.device)
        for player in self.objective.players:
            graph = self._graphs.get(player)
            outputs = self._compute_eagerly(player) if graph is None else graph(*self.arguments)
            parameters = self.computation.parameters.of(player)
            gradients = outputs[len(outputs) - len(parameters) :]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                columns = self._slices.get(id(parameter))
                if gradient is not None and columns is not None:
                    row[columns] += gradient.detach().flatten()
        return row

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.coordinates.parameters[0].device

    @property
    def step(self) -> str:
        """How a gradient is computed: ``"graph"`` or ``"eager"``."""
        return "graph" if self._graphs else "eager"

    def _compute_eagerly(self, player: str) -> Outputs:
        """Return the numbers and gradients of one player's step."""
        return self.computation(self.arguments, player)[1]

    def warm_up(self, draws: int) -> None:
        """Draw `draws` gradients in training mode, which advances the state of an objective with a state.

        An objective without state (without buffers) draws once, so that lazy parameters are created.

        Args:
            draws: the number of draws, at least 1 if the objective has state.
        """
        has_state = any(True for _ in self.objective.buffers())
        self.objective.train(has_state)
        try:
            for _ in range(max(draws, 1) if has_state else 1):
                self.draw()
        finally:
            self.objective.eval()

    def use_graphs(self) -> None:
        """Trace the gradient of each player to a graph, as training does, and use the graphs for all later draws.

        If the graph of one player cannot be traced, or differs from the eager computation, all players stay eager.
        """
        graphs = {player: self._trace(player) for player in self.objective.players}
        traced = {player: graph for player, graph in graphs.items() if graph is not None}
        self._graphs = traced if len(traced) == len(graphs) else {}

    def _trace(self, player: str) -> Callable[..., Outputs] | None:
        """Return the graph of one player's step, or None if there is none that agrees with the eager step."""
        with preserve_step(self.computation.parameters) as state:
            expected = self._compute_eagerly(player)
            if state.untraceable_change() is not None:
                return None

        def compute(*arguments: Tensor) -> Outputs:
            return self.computation(arguments, player)[1]

        try:
            with preserve_step(self.computation.parameters):
                graph = trace(compute, self.arguments).run
            with preserve_step(self.computation.parameters):
                outputs = graph(*self.arguments)
            names = [str(index) for index in range(len(expected))]
            return graph if first_difference(names, outputs, expected) is None else None
        except Exception:  # a user's program may raise any error in a trace; the eager computation is then used
            return None


def _clock(device: torch.device) -> Callable[[], float]:
    """Return a clock: CPU seconds of this process; on a CUDA device wall-clock seconds after all kernels have ended."""
    if device.type != "cuda":
        return time.process_time

    def synchronised_time() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised_time


def _block_seeds(seed: int, stream: int, count: int) -> list[int]:
    """Return independent seeds for `count` blocks of one stream."""
    return [int(state) for state in np.random.SeedSequence([seed, stream]).generate_state(count)]


@contextmanager
def _timed(clock: Callable[[], float], durations: list[float]) -> Iterator[None]:
    """Append the seconds that the block takes to `durations`."""
    start = clock()
    yield
    durations.append(clock() - start)


def draw_gradients(
    samplers: Mapping[str, GradientSampler],
    centres: Mapping[str, Tensor | None],
    draws: int,
    *,
    seed: int,
    stream: int,
    keep: bool = False,
) -> dict[str, GradientBlocks]:
    """Return draws of each objective's gradient.

    The objectives take turns, block by block, so that changes in the speed of the machine affect all of them. Each
    objective starts a block from the same seed, so its draws do not depend on the other objectives.

    Args:
        samplers: the sampler of each objective, by name.
        centres: for each name the gradient that is subtracted before draws are summed, shape (coordinates,); None for
            the first draw.
        draws: the number of draws of each objective.
        seed: the seed of the study.
        stream: the number of the random stream; draws and references must use different streams.
        keep: whether to keep every draw.
    """
    coordinates = next(iter(samplers.values())).coordinates.size
    sizes = block_sizes(draws, coordinates)
    blocks: dict[str, GradientBlocks] = {}
    for block_seed, size in zip(_block_seeds(seed, stream, len(sizes)), sizes, strict=True):
        for name, sampler in samplers.items():
            durations: list[float] = []
            with isolated(block_seed), _timed(_clock(sampler.device), durations):
                gradients = torch.stack([sampler.draw() for _ in range(size)])
            if name not in blocks:
                centre = centres.get(name)
                blocks[name] = GradientBlocks(
                    gradients[0] if centre is None else centre, sampler.coordinates.groups, keep
                )
            blocks[name].add(gradients, durations[0])
    return blocks
