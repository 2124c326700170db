"""Which tensor went non-finite first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pvae.train.frozen import unmoved
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
        where = f"{self.program} site {self.site!r}, {self.tensor}" if self.site else f"{self.program} {self.tensor}"
        return f"{where.strip()} ({self.said})"


def _bad(tensor: Any) -> str:
    """How many values are not finite, in words; empty where all are."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
        return ""
    nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    return f"{nan} NaN and {infinite} infinite of {tensor.numel()} values"


def _tensors(site: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """A site's tensors in the order in which they come about: parameters, value, log-density."""
    inner = site["fn"]
    while inner is not None:
        for name in getattr(inner, "arg_constraints", {}):
            # only those given: torch computes the others from them on demand
            if isinstance(vars(inner).get(name), Tensor):
                yield name, vars(inner)[name]
        inner = getattr(inner, "base_dist", None)
    yield "value", site["value"]
    yield "log_prob", site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])


def _sites(program: str, trace: poutine.Trace) -> Iterator[Culprit]:
    for name, site in trace.nodes.items():
        if site["type"] != "sample":
            continue
        for tensor, value in _tensors(site):
            if said := _bad(value):
                yield Culprit(name, tensor, program, said)


def _in_programs(stepper: Stepper, arguments: tuple[Tensor, ...]) -> Iterator[Culprit]:
    programs = stepper.computation.programs
    guide = poutine.trace(programs.guide).get_trace(*arguments)
    yield from _sites("guide", guide)
    model = poutine.trace(poutine.replay(programs.model, trace=guide)).get_trace(*arguments)
    yield from _sites("model", model)


def _all(stepper: Stepper, arguments: tuple[Tensor, ...]) -> Iterator[Culprit]:
    """Everything that is not finite in one step, in the order in which it comes about."""
    computation = stepper.computation
    parameters = computation.parameters
    for name, each in parameters.named.items():
        if said := _bad(each.detach()):
            yield Culprit("", name, "parameter", said)
    with pyro.validation_enabled(False), unmoved(parameters.latent_model, parameters.programs.modules):
        yield from _in_programs(stepper, arguments)
    for player in parameters.players:
        with pyro.validation_enabled(False), unmoved(parameters.latent_model, parameters.programs.modules):
            names, outputs = computation(arguments, player, computation.count(arguments))
        for name, each in zip(names, outputs, strict=False):
            if each is not None and (said := _bad(each)):
                yield Culprit("", name, "loss" if name != "loss" else "", said)
        for name, each in zip(parameters.names(player), outputs[len(names) :], strict=True):
            if each is not None and (said := _bad(each)):
                yield Culprit("", name, "gradient", said)


def first_culprit(stepper: Stepper, batch: Mapping[str, Tensor]) -> Culprit | None:
    """Return what goes non-finite first in the step about to be taken on `batch`, or None. Nothing is moved."""
    arguments = stepper.computation.programs.arguments(batch)
    return next(_all(stepper, arguments), None)
