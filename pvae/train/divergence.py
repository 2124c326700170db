"""Which tensor went non-finite first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pvae.train.graph.preserve import preserve_state
from pvae.train.step import Stepper

__all__ = ["Culprit", "first_culprit"]


@dataclass(frozen=True)
class Culprit:
    """The first non-finite tensor of a step.

    Attributes:
        site: the Pyro site, or an empty string for a gradient or a parameter.
        tensor: ``value``, ``log_prob``, the name of a distribution's parameter, or the name of a parameter.
        program: ``guide``, ``model``, ``gradient``, ``parameter`` or ``loss``.
        said: how many of the values are what.
    """

    site: str
    tensor: str
    program: str
    said: str

    def __str__(self) -> str:
        where = f"{self.tensor} of {self.program} site {self.site!r}" if self.site else f"{self.program} {self.tensor}"
        return f"{where.strip()} ({self.said})"


def _bad(tensor: Any) -> str:
    """How many values are not finite, in words; empty where all are."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
        return ""
    nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    return f"{nan} NaN and {infinite} infinite of {tensor.numel()} values"


class _Found(Exception):
    """Ends a program at the first non-finite tensor."""

    def __init__(self, culprit: Culprit) -> None:
        super().__init__(str(culprit))
        self.culprit = culprit


class _Watch(Messenger):
    """Looks at each sample site: its distribution's parameters before the draw, then value and log-density."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self.program = program

    def _look(self, msg: Any, tensor: str, value: Any) -> None:
        if said := _bad(value):
            raise _Found(Culprit(msg["name"], tensor, self.program, said))

    def _pyro_sample(self, msg: Any) -> None:
        inner = msg["fn"]
        while inner is not None:
            for name in getattr(inner, "arg_constraints", {}):
                # only those given: torch computes the others from them on demand
                self._look(msg, name, vars(inner).get(name))
            inner = getattr(inner, "base_dist", None)

    def _pyro_post_sample(self, msg: Any) -> None:
        self._look(msg, "value", msg["value"])
        self._look(msg, "log_prob", msg["fn"].log_prob(msg["value"], *msg["args"], **msg["kwargs"]))


def _in_programs(stepper: Stepper, arguments: tuple[Tensor, ...]) -> Iterator[Culprit]:
    programs = stepper.computation.programs.bound_with(arguments)
    try:
        with _Watch("guide"):
            guide = programs.trace_guide()
        with _Watch("model"):
            programs.trace_model(guide)
    except _Found as found:
        yield found.culprit


def _all(stepper: Stepper, arguments: tuple[Tensor, ...]) -> Iterator[Culprit]:
    """Everything that is not finite in one step, in the order in which it comes about."""
    computation = stepper.computation
    parameters = computation.parameters
    for name, each in parameters.named.items():
        if said := _bad(each.detach()):
            yield Culprit("", name, "parameter", said)
    modules = [each for each in (*parameters.programs.modules, parameters.objective) if isinstance(each, nn.Module)]
    with pyro.validation_enabled(False), preserve_state(parameters.latent_model, modules):
        yield from _in_programs(stepper, arguments)
    for player in parameters.players:
        with pyro.validation_enabled(False), preserve_state(parameters.latent_model, modules):
            names, outputs = computation(arguments, player, computation.count(arguments))
        for name, number in zip(names, outputs, strict=False):
            if said := _bad(number):
                yield Culprit("", name, "term" if name != "loss" else "", said)
        for name, gradient in zip(parameters.names(player), outputs[len(names) :], strict=True):
            if said := _bad(gradient):
                yield Culprit("", name, "gradient", said)


def first_culprit(stepper: Stepper, batch: Mapping[str, Tensor]) -> Culprit | None:
    """Return what goes non-finite first in the step about to be taken on `batch`, or None. Nothing is moved."""
    arguments = stepper.computation.programs.arguments(batch)
    return next(_all(stepper, arguments), None)
