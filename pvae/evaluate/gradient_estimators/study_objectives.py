"""The objectives of a study of gradients: their names, their identity and their targets."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from pyro.infer import Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from pvae.errors import InputError
from pvae.objectives import Objective, PyroObjective, WeightsObjective, adapt, describe, make_objective

__all__ = ["identity_of", "named_objectives", "named_references", "target_of"]


def named_objectives(objectives: Any) -> dict[str, Objective]:
    """Return objectives by name.

    Args:
        objectives: a name with settings such as ``"iwae:particles=8"``, an objective, a loss of Pyro, a sequence of
            these, or a dict from names to these.

    Raises:
        InputError: if there is none, or an element is not an objective.

    Example:
        >>> from pvae.evaluate import named_objectives
        >>> list(named_objectives(["elbo", "iwae:particles=8"]))
        ['elbo', 'iwae:particles=8']
    """
    named: dict[str, Objective] = {}
    if isinstance(objectives, Mapping):
        named = {str(name): _objective(element) for name, element in objectives.items()}
    else:
        is_several = isinstance(objectives, Sequence) and not isinstance(objectives, str)
        for element in list(objectives) if is_several else [objectives]:
            objective = _objective(element)
            name = element if isinstance(element, str) else describe(objective)
            named[name if name not in named else f"{name}#{len(named)}"] = objective
    if not named:
        raise InputError("A study of gradients needs at least one objective, such as 'iwae:particles=8'; got none.")
    return named


def _objective(element: Any) -> Objective:
    """Return the objective of a name, an objective, a loss of Pyro, or a factory of one."""
    return make_objective(element)() if isinstance(element, str) else adapt(element)


def named_references(references: Any) -> dict[str, Objective]:
    """Return the objectives to sample in place of targets, by name.

    Args:
        references: objectives as for `named_objectives`; None for no references.

    Raises:
        InputError: if a reference is biased.
    """
    named = {} if references is None else named_objectives(references)
    for name, objective in named.items():
        if objective.biased:
            raise InputError(
                f"A reference must be unbiased, but {name} is not: {objective.biased}. Use an unbiased estimator, "
                "such as 'dreg' for 'iwae'."
            )
    return named


def identity_of(objective: Objective) -> tuple[Any, ...]:
    """Return a key that is equal for equal objectives; ELBOs of different numbers of particles count as equal."""
    kind = type(objective.elbo) if isinstance(objective, PyroObjective) else type(objective)
    if kind is Trace_ELBO:
        return (kind,)
    return kind, repr(sorted(objective.settings().items(), key=lambda item: item[0]))


def target_of(objective: Objective) -> Objective:
    """Return the objective with the gradient that this objective's gradient is compared with.

    It has the default gradient strategies. For ELBOs of Pyro it is `Trace_ELBO`, which samples every term.
    """
    if isinstance(objective, PyroObjective) and type(objective.elbo) in (TraceGraph_ELBO, TraceMeanField_ELBO):
        return PyroObjective(Trace_ELBO())
    target = objective.target()
    if isinstance(target, WeightsObjective) and target.gradients:
        target = copy.copy(target)
        target.gradients = {}
        target.biased = type(target).biased
    return target
