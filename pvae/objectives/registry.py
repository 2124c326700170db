"""Makes objectives by their names on the command line, and describes objectives by these names."""

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
from pvae.objectives.pyro.adapt_losses import adapt
from pvae.objectives.pyro.loss_function import LossFunction
from pvae.objectives.pyro.pyro_losses import PyroObjective
from pvae.objectives.weights_objective import WeightsOptions

__all__ = [
    "OBJECTIVES",
    "NamedObjective",
    "describe",
    "loss_is_bound",
    "make_objective",
    "no_density_by",
    "objective_names",
    "untrained_by",
]

# The objectives that minimise minus a lower bound on log p(x), in nats. The losses of other objectives have further
# terms or weights, or are losses of a classifier or a critic.
_LOWER_BOUNDS = (
    *("elbo", "elbo-analytic", "elbo-graph", "elbo-enum", "em", "reinforce", "log-variance"),
    *("iwae", "miwae", "ciwae", "piwae", "vimco", "stl", "dreg", "rws", "tvo"),
    "stratified-iwae",
)


@named("elbo", "pyro.infer.Trace_ELBO: pathwise or score-function gradients")
def _elbo(particles: int = 1) -> ELBO:
    return Trace_ELBO(num_particles=require_whole(particles, "particles"), vectorize_particles=particles > 1)


@named("elbo-analytic", "pyro.infer.TraceMeanField_ELBO: KL in closed form where there is one")
def _elbo_analytic(particles: int = 1) -> ELBO:
    return TraceMeanField_ELBO(num_particles=require_whole(particles, "particles"), vectorize_particles=particles > 1)


@named("elbo-enum", "pyro.infer.TraceEnum_ELBO: sums over discrete latents that are marked for enumeration")
def _elbo_enum(particles: int = 1) -> ELBO:
    return TraceEnum_ELBO(num_particles=require_whole(particles, "particles"), vectorize_particles=particles > 1)


_NAMES_OF_PYRO_LOSSES = {
    Trace_ELBO: "elbo",
    TraceMeanField_ELBO: "elbo-analytic",
    TraceGraph_ELBO: "elbo-graph",
    TraceEnum_ELBO: "elbo-enum",
    RenyiELBO: "RenyiELBO",
}


@dataclass(frozen=True)
class NamedObjective:
    """A factory of an objective by its text; it can be pickled.

    Attributes:
        text: the name with settings, such as ``"renyi:alpha=0.5:particles=8"``.
    """

    text: str

    def __call__(self) -> Objective:
        """Return a new objective."""
        name, settings = parse(self.text)
        inner = settings.get("objective")
        if isinstance(inner, str):  # the settings of an objective inside another one follow slashes
            settings["objective"] = make_objective(inner.replace("/", ":"))
        return adapt(OBJECTIVES[name][0](**settings))


def _setting_names(constructor: Callable[..., Any]) -> list[str]:
    """Return the names of the settings that may follow an objective's name, with those of `WeightsOptions`."""
    names = []
    for parameter in inspect.signature(constructor).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            names += list(WeightsOptions.__annotations__)
        else:
            names.append(parameter.name)
    return names


def make_objective(text: str) -> NamedObjective:
    """Return a factory for the objective that a text names.

    Args:
        text: a name with settings, such as ``"renyi:alpha=0.5:particles=8"``.

    Raises:
        InputError: for an unknown name or setting (the error names the nearest known one), or a value out of its range.
    """
    parse_known(text, "objective", OBJECTIVES, lambda entry: _setting_names(entry[0]))
    factory = NamedObjective(text)
    factory()
    return factory


def objective_names() -> list[tuple[str, str]]:
    """Return each name of the command line with one line about its objective; Pyro's own losses come first."""
    lines = [(name, line) for name, (_, line) in OBJECTIVES.items()]
    return sorted(lines, key=lambda pair: not pair[0].startswith("elbo"))


def loss_is_bound(text: str) -> bool | None:
    """Return whether the loss of an objective is minus a lower bound on log p(x); None for one without a name.

    Args:
        text: a name with settings, such as ``"beta:beta=4.0"``.
    """
    name, settings = parse(text)
    if name == "alternate":
        return loss_is_bound(str(settings.get("objective", "elbo")).replace("/", ":"))
    return name in _LOWER_BOUNDS if name in OBJECTIVES else None


def untrained_by(text: str) -> tuple[str, ...]:
    """Return the parameter groups that an objective does not update; none for an objective without a name.

    Args:
        text: a name with settings, such as ``"gan:critic_steps=2"``.
    """
    constructor = OBJECTIVES.get(parse(text)[0], (None,))[0]
    return constructor.untrained if isinstance(constructor, type) and issubclass(constructor, Objective) else ()


def no_density_by(text: str) -> str:
    """Return why an objective trains no density p(x given z); "" if it does, or for an objective without a name.

    Args:
        text: a name with settings, such as ``"vae-gan:gamma=0.1"``.
    """
    constructor = OBJECTIVES.get(parse(text)[0], (None,))[0]
    return constructor.no_density if isinstance(constructor, type) and issubclass(constructor, Objective) else ""


def describe(objective: Any) -> str:
    """Return a name with settings, such as ``"iwae:particles=8"``, for tables and for the record of a run.

    Args:
        objective: an `Objective`, a loss of `pyro.infer`, or a factory of one.
    """
    adapted = adapt(objective)
    name = _name(adapted)
    settings = adapted.settings()
    if name.startswith("elbo") and settings.get("particles") == 1:
        settings.pop("particles")
    parts = [name]
    for key, value in settings.items():
        text = describe(value).replace(":", "/") if isinstance(value, Objective) else value
        parts.append(f"{key}={text}")
    return ":".join(parts)


def _name(objective: Objective) -> str:
    """Return the name on the command line, else the name of the class."""
    for name, (constructor, _) in OBJECTIVES.items():
        if constructor is type(objective):
            return name
    if isinstance(objective, PyroObjective):
        return _NAMES_OF_PYRO_LOSSES.get(type(objective.elbo), type(objective.elbo).__name__)
    return objective.name if isinstance(objective, LossFunction) else type(objective).__name__
