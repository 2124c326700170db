"""`Computation`: the numbers and gradients of one training step, as Pyro computes them."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.objectives.base import Objective
from pvae.programs.binding import Programs
from pvae.programs.data_counter import DataCounter
from pvae.train.graph.trace import Outputs
from pvae.train.parameters import Parameters

__all__ = ["Computation"]


@dataclass(frozen=True)
class Computation:
    """The terms and gradients of an objective for one batch, in nats per datum.

    Attributes:
        programs: model and guide.
        objective: the objective; its ``terms`` are computed.
        parameters: the tensors that are differentiated.
        autocast: the type for `torch.autocast`, or None.
    """

    programs: Programs
    objective: Objective
    parameters: Parameters
    autocast: torch.dtype | None = None

    def terms(self, arguments: tuple[Tensor, ...], player: str) -> tuple[Any, float | Tensor]:
        """Return the terms of the objective, sums over the data, in nats, and the number of data that they represent.

        Args:
            arguments: the tensors that the programs take.
            player: the parameter group that is updated on its own, or ``"all"``.
        """
        model, guide = self.programs.model, self.programs.guide
        # With a cache, casts would keep tensors of the tracer, and the graph would differ from the eager step.
        cast = (
            nullcontext()
            if self.autocast is None
            else torch.autocast(arguments[0].device.type, dtype=self.autocast, cache_enabled=False)
        )
        with DataCounter(self.programs.bound_with(arguments), self.objective.data_plate) as counter, cast:
            terms = self.objective.terms(model, guide, arguments, {}, player)
        return terms, counter.count

    def __call__(self, arguments: tuple[Tensor, ...], player: str) -> tuple[tuple[str, ...], Outputs]:
        """Compute one step without an update.

        Args:
            arguments: the tensors that the programs take.
            player: the parameter group that is updated on its own, or ``"all"``.

        Returns:
            The names of the numbers (the loss and the named terms); and the numbers per datum, each of shape (),
            followed by the gradient of each parameter of the group (None if it has none).
        """
        terms, count = self.terms(arguments, player)
        if self.parameters.has_new():
            self.parameters.collect()
        surrogate = terms.surrogate / count
        parameters = self.parameters.of(player)
        if surrogate.requires_grad and parameters:
            gradients: Outputs = torch.autograd.grad(
                surrogate, parameters, allow_unused=True, retain_graph=self.objective.retain_graph
            )
        else:
            gradients = (None,) * len(parameters)
        numbers = {"loss": terms.loss, **terms.named}
        return tuple(numbers), (*[number.detach() / count for number in numbers.values()], *gradients)
