"""The search for the first tensor of a training step that is not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.train.graph.preserve import preserve_step
from pvae.train.step import Stepper

__all__ = ["NonFiniteStep", "NonFiniteTensor", "find_non_finite"]


class NonFiniteStep(Exception):
    """A number of a training step, or a parameter after it, is not finite."""


@dataclass(frozen=True)
class NonFiniteTensor:
    """The first tensor of a step that is not finite.

    Attributes:
        site: the name of the sample site; "" for a number, a gradient or a parameter.
        tensor: ``value``, ``log_prob``, the name of a distribution's parameter, or the name of a number or parameter.
        source: ``guide``, ``model``, ``gradient``, ``parameter``, ``term``, or "" for the loss.
        description: the number of values that are not finite, as text.
    """

    site: str
    tensor: str
    source: str
    description: str

    def __str__(self) -> str:
        name = f"{self.tensor} of {self.source} site {self.site!r}" if self.site else f"{self.source} {self.tensor}"
        return f"{name.strip()} ({self.description})"


def _describe_non_finite(tensor: Any) -> str:
    """Return the number of values that are not finite as text.

    "" if all are finite, or if there is no floating tensor.
    """
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
        return ""
    nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    return f"{nan} NaN and {infinite} infinite of {tensor.numel()} values"


class _NonFiniteSite(Exception):
    """Ends a run of a program at the first tensor that is not finite."""

    def __init__(self, tensor: NonFiniteTensor) -> None:
        super().__init__(str(tensor))
        self.tensor = tensor


class _FiniteCheckMessenger(Messenger):
    """Checks each sample site: the parameters of its distribution before the draw, then value and log-density.

    Args:
        program: ``guide`` or ``model``.
    """

    def __init__(self, program: str) -> None:
        super().__init__()
        self.program = program

    def _check(self, msg: Any, name: str, value: Any) -> None:
        description = _describe_non_finite(value)
        if description:
            raise _NonFiniteSite(NonFiniteTensor(msg["name"], name, self.program, description))

    def _pyro_sample(self, msg: Any) -> None:
        distribution = msg["fn"]
        while distribution is not None:
            for name in getattr(distribution, "arg_constraints", {}):
                # only parameters that the program passed; torch computes the other parameters from these on demand
                self._check(msg, name, vars(distribution).get(name))
            distribution = getattr(distribution, "base_dist", None)

    def _pyro_post_sample(self, msg: Any) -> None:
        self._check(msg, "value", msg["value"])
        self._check(msg, "log_prob", msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"]))


def _in_programs(stepper: Stepper, arguments: tuple[Tensor, ...]) -> Iterator[NonFiniteTensor]:
    """Yield the first tensor of the sample sites that is not finite."""
    programs = stepper.computation.programs.bound_with(arguments)
    try:
        with _FiniteCheckMessenger("guide"):
            guide_trace = programs.trace_guide()
        with _FiniteCheckMessenger("model"):
            programs.trace_model(guide_trace)
    except _NonFiniteSite as error:
        yield error.tensor


def _in_computation(stepper: Stepper, arguments: tuple[Tensor, ...], player: str) -> Iterator[NonFiniteTensor]:
    """Yield the numbers and then the gradients of one parameter group that are not finite."""
    computation, parameters = stepper.computation, stepper.parameters
    with pyro.validation_enabled(False), preserve_step(parameters):
        names, outputs = computation(arguments, player)
    for name, number in zip(names, outputs, strict=False):
        description = _describe_non_finite(number)
        if description:
            yield NonFiniteTensor("", name, "term" if name != "loss" else "", description)
    for name, gradient in zip(parameters.names(player), outputs[len(names) :], strict=True):
        description = _describe_non_finite(gradient)
        if description:
            yield NonFiniteTensor("", name, "gradient", description)


def _in_step(stepper: Stepper, arguments: tuple[Tensor, ...]) -> Iterator[NonFiniteTensor]:
    """Yield all tensors of one step that are not finite, in the order in which the step computes them."""
    parameters = stepper.parameters
    for name, parameter in parameters.named.items():
        description = _describe_non_finite(parameter.detach())
        if description:
            yield NonFiniteTensor("", name, "parameter", description)
    with pyro.validation_enabled(False), preserve_step(parameters):
        yield from _in_programs(stepper, arguments)
    for player in parameters.players:
        yield from _in_computation(stepper, arguments, player)


def find_non_finite(stepper: Stepper, batch: Mapping[str, Tensor]) -> NonFiniteTensor | None:
    """Return the first tensor that is not finite in the next step on a batch; None if all are finite.

    Random generators, buffers and parameters stay as they are.

    Args:
        stepper: the training step.
        batch: the batch of the step.
    """
    arguments = stepper.computation.programs.arguments(batch)
    return next(_in_step(stepper, arguments), None)
