"""Draws of the gradient of an objective, at parameters that stay as they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.evaluate.evaluation_context import Setting
from pvae.evaluate.gradient_estimators.blocks import Blocks, block_sizes
from pvae.objectives import Objective
from pvae.programs.parameter_groups import find_groups
from pvae.train.computation import Computation
from pvae.train.devices import isolated
from pvae.train.graph.agreement import first_difference
from pvae.train.graph.preserve import PreservedState, preserve_state
from pvae.train.graph.trace import Outputs, trace
from pvae.train.parameters import Parameters

__all__ = ["Coordinates", "Sampler", "find_coordinates", "sample"]


@dataclass(frozen=True)
class Coordinates:
    """The parameters in one row: theta, then phi, then what both programs share.

    Attributes:
        tensors: the parameters in order.
        groups: the place of each group that has parameters.
    """

    tensors: tuple[Tensor, ...]
    groups: Mapping[str, slice]

    @property
    def size(self) -> int:
        """The number of coordinates."""
        return sum(each.numel() for each in self.tensors)

    def places(self) -> dict[int, slice]:
        """Return the place of each parameter, by identity."""
        found, start = {}, 0
        for each in self.tensors:
            found[id(each)] = slice(start, start + each.numel())
            start += each.numel()
        return found


def _declared(latent: Any, group: str) -> list[Tensor] | None:
    method = getattr(latent, group, None)
    if not callable(method):
        return None
    try:
        return [each for each in method() if each.requires_grad]
    except InputError:
        return None


def find_coordinates(setting: Setting) -> Coordinates:
    """Return the model's parameters by group: as it declares them, or as they are found from the batch.

    Raises:
        InputError: if there are none.
    """
    theta, phi = _declared(setting.model, "theta"), _declared(setting.model, "phi")
    if theta is None or phi is None:
        found = find_groups(setting.model, [setting.batch], setting.fields)
        groups = {name: list(getattr(found, name).values()) for name in ("theta", "phi", "both")}
    else:
        both = [each for each in theta if any(each is other for other in phi)]
        own = [[each for each in group if all(each is not other for other in both)] for group in (theta, phi)]
        groups = {"theta": own[0], "phi": own[1], "both": both}
    places, start = {}, 0
    for name, tensors in groups.items():
        size = sum(each.numel() for each in tensors)
        if size:
            places[name] = slice(start, start + size)
            start += size
    if not places:
        raise InputError("There is no gradient to study: the model and guide have no parameter with requires_grad.")
    return Coordinates(tuple(each for tensors in groups.values() for each in tensors), places)


class Sampler:
    """Draws of one objective's gradient: each call gives a new one, of the loss per datum, as a training step sees it.

    Args:
        setting: the model and the batch.
        objective: whose gradient; in evaluation mode, so that its state stays.
        coordinates: what is differentiated.
    """

    def __init__(self, setting: Setting, objective: Objective, coordinates: Coordinates) -> None:
        programs = setting.programs()
        self.model, self.objective, self.coordinates = setting.model, objective, coordinates
        self.arguments = programs.arguments(setting.batch)
        self.computation = Computation(
            programs, objective, Parameters(setting.model, programs, objective, setting.batch)
        )
        self.count = self.computation.count(self.arguments)
        self._places = coordinates.places()
        self._graphs: dict[str, Callable[..., Outputs]] = {}

    def __call__(self) -> Tensor:
        """Return one draw, shape (coordinates,), float64, in nats per datum for a unit of each parameter."""
        first = self.coordinates.tensors[0]
        row = torch.zeros(self.coordinates.size, dtype=torch.float64, device=first.device)
        for player in self.objective.players:
            run = self._graphs.get(player)
            outputs = self._eager(player) if run is None else run(*self.arguments)
            parameters = self.computation.parameters.of(player)
            for parameter, gradient in zip(parameters, outputs[len(outputs) - len(parameters) :], strict=True):
                place = self._places.get(id(parameter))
                if gradient is not None and place is not None:
                    row[place] += gradient.detach().flatten()
        return row

    @property
    def step(self) -> str:
        """How a gradient is computed: ``"graph"`` or ``"eager"``."""
        return "graph" if self._graphs else "eager"

    def _eager(self, player: str) -> Outputs:
        return self.computation(self.arguments, player, self.count)[1]

    def warm_up(self, draws: int) -> None:
        """Advance the objective's state, where it has any, by as many draws in training mode; else draw once."""
        has_state = any(True for _ in self.objective.buffers())
        self.objective.train(has_state)
        try:
            for _ in range(max(draws, 1) if has_state else 1):
                self()
        finally:
            self.objective.eval()

    def use_graphs(self) -> None:
        """Trace the gradient once, as training does, where the graph agrees with the eager computation."""
        graphs = {player: self._traced(player) for player in self.objective.players}
        self._graphs = {player: run for player, run in graphs.items() if run is not None}
        if len(self._graphs) < len(graphs):
            self._graphs = {}

    def _traced(self, player: str) -> Callable[..., Outputs] | None:
        with self._unmoved() as frozen:
            expected = self._eager(player)
            if frozen.untraceable_change() is not None:
                return None
        try:
            with self._unmoved():
                run = trace(lambda *values: self.computation(values, player, self.count)[1], self.arguments)
            with self._unmoved():
                outputs = run(*self.arguments)
                names = [str(index) for index in range(len(expected))]
                return run if first_difference(names, outputs, expected) is None else None
        except Exception:  # user code is run as it was not meant to be, and the eager computation stands ready
            return None

    def _unmoved(self) -> AbstractContextManager[PreservedState]:
        return preserve_state(self.model, [*self.computation.programs.modules, self.objective])


def _clock(device: torch.device) -> Callable[[], float]:
    """CPU seconds of this process; on a CUDA device seconds of the wall, with the device's work done."""
    if device.type != "cuda":
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def _seeds(seed: int, stream: int, count: int) -> list[int]:
    return [int(each) for each in np.random.SeedSequence([seed, stream]).generate_state(count)]


@contextmanager
def _timed(clock: Callable[[], float], into: list[float]) -> Iterator[None]:
    start = clock()
    yield
    into.append(clock() - start)


def sample(
    samplers: Mapping[str, Sampler],
    centres: Mapping[str, Tensor | None],
    draws: int,
    *,
    seed: int,
    stream: int,
    keep: bool = False,
) -> dict[str, Blocks]:
    """Return draws of each objective's gradient, taken in turn block by block, so that they share the machine's moods.

    Each objective starts every block from the same seed: its draws do not depend on which others are studied.

    Args:
        samplers: of each objective, by name.
        centres: about which sums are kept, by name; None for the first draw.
        draws: of each objective.
        seed: of the study.
        stream: which of its independent streams: draws and references must not share one.
        keep: whether to keep every draw.
    """
    size = next(iter(samplers.values())).coordinates.size
    sizes = block_sizes(draws, size)
    found: dict[str, Blocks] = {}
    for block_seed, count in zip(_seeds(seed, stream, len(sizes)), sizes, strict=True):
        for name, sampler in samplers.items():
            seconds: list[float] = []
            with isolated(block_seed), _timed(_clock(sampler.coordinates.tensors[0].device), seconds):
                drawn = torch.stack([sampler() for _ in range(count)])
            if name not in found:
                centre = centres.get(name)
                found[name] = Blocks(drawn[0] if centre is None else centre, sampler.coordinates.groups, keep)
            found[name].add(drawn, seconds[0])
    return found
