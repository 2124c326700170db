"""Make objectives by their names on the command line, and say their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from pvae.checks import require_whole
from pvae.names import parse, parse_known
from pvae.objectives.base import Objective
from pvae.objectives.named import OBJECTIVES, named
from pvae.objectives.pyro.pyro_losses import PyroObjective, adapt
from pvae.objectives.weights_objective import WeightsOptions

__all__ = ["OBJECTIVES", "NamedObjective", "describe", "make_objective", "objective_names", "untrained_by"]


@named("elbo", "pyro.infer.Trace_ELBO: reparameterised or score function")
def _elbo(particles: int = 1) -> ELBO:
    return Trace_ELBO(num_particles=require_whole(particles, "particles"), vectorize_particles=particles > 1)


@named("elbo-analytic", "pyro.infer.TraceMeanField_ELBO: KL in closed form where there is one")
def _elbo_analytic(particles: int = 1) -> ELBO:
    return TraceMeanField_ELBO(num_particles=require_whole(particles, "particles"), vectorize_particles=particles > 1)


@named("elbo-enum", "pyro.infer.TraceEnum_ELBO: discrete latents summed out")
def _elbo_enum(particles: int = 1) -> ELBO:
    return TraceEnum_ELBO(num_particles=require_whole(particles, "particles"), vectorize_particles=particles > 1)


_PYRO = {
    Trace_ELBO: "elbo",
    TraceMeanField_ELBO: "elbo-analytic",
    TraceGraph_ELBO: "elbo-graph",
    TraceEnum_ELBO: "elbo-enum",
    RenyiELBO: "RenyiELBO",
}


@dataclass(frozen=True)
class NamedObjective:
    """A factory that can be pickled: calling it makes the objective that its text names."""

    text: str

    def __call__(self) -> Objective:
        """Return a fresh objective."""
        name, settings = parse(self.text)
        if isinstance(settings.get("objective"), str):  # an objective inside another; its settings follow slashes
            settings["objective"] = make_objective(settings["objective"].replace("/", ":"))
        return adapt(OBJECTIVES[name][0](**settings))


def _settings(constructor: Callable[..., Any]) -> list[str]:
    """What can follow an objective's name; the options that every objective of weights takes among it."""
    parameters = inspect.signature(constructor).parameters.values()
    shared = WeightsOptions.__annotations__ if any(each.kind is each.VAR_KEYWORD for each in parameters) else {}
    return [each.name for each in parameters if each.kind is not each.VAR_KEYWORD] + list(shared)


def make_objective(text: str) -> NamedObjective:
    """Return a factory for the objective that `text` names, such as ``"renyi:alpha=0.5:particles=8"``.

    Raises:
        InputError: for an unknown name or setting (the nearest known one is named), or a value that is out of range.
    """
    parse_known(text, "objective", OBJECTIVES, lambda entry: _settings(entry[0]))
    factory = NamedObjective(text)
    factory()
    return factory


def objective_names() -> list[tuple[str, str]]:
    """Return each name of the command line with a line on what it is, those of Pyro's own objectives first."""
    lines = [(name, line) for name, (_, line) in OBJECTIVES.items()]
    return sorted(lines, key=lambda pair: not pair[0].startswith("elbo"))


def untrained_by(text: str) -> tuple[str, ...]:
    """Return the groups that no player of an objective updates, by its text; none for one without a name."""
    made = OBJECTIVES.get(parse(text)[0], (None,))[0]
    groups: tuple[str, ...] = getattr(made, "untrained", ())
    return groups


def describe(objective: Any) -> str:
    """Return a name with settings, such as ``"iwae:particles=8"``, for tables and for the record of a run."""
    own = adapt(objective)
    named = [name for name, (made, _) in OBJECTIVES.items() if made is type(own)]
    if named:
        name = named[0]
    elif isinstance(own, PyroObjective):
        name = _PYRO.get(type(own.elbo), type(own.elbo).__name__)
    else:
        name = type(own).__name__
    settings = own.settings()
    if name.startswith("elbo") and settings.get("particles") == 1:
        settings.pop("particles")
    shown = {
        key: describe(value).replace(":", "/") if isinstance(value, Objective) else value
        for key, value in settings.items()
    }
    return ":".join([name, *(f"{key}={value}" for key, value in shown.items())])
