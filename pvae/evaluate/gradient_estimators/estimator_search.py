"""`search_gradients`: a study of every admissible assignment of gradient strategies to the guide's sites."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import evaluation_context
from pvae.evaluate.gradient_estimators.gradient_comparison import Progress, gradients
from pvae.evaluate.gradient_estimators.gradient_study import GradientStudy
from pvae.evaluate.gradient_estimators.study_objectives import named_objectives
from pvae.names import parse
from pvae.objectives import Objective, WeightsObjective, make_objective
from pvae.objectives.gradients.strategies import admissible
from pvae.objectives.registry import OBJECTIVES
from pvae.programs.sites import sample_sites

__all__ = ["search_gradients", "strategies_of"]

_CONTEXT_OPTIONS = ("limit", "device", "split", "fields", "data_plate")

#: Unbiased strategies for a reference, in the order of preference: low variance first, and cheap in many dimensions.
_REFERENCE_STRATEGIES = ("pathwise", "score:leave-one-out", "measure", "score")

#: Admissible strategies by site.
Sites = Mapping[str, tuple[str, ...]]


def strategies_of(model: Any, batch: Any, *, particles: int = 2, **where: Any) -> dict[str, tuple[str, ...]]:
    """Return the gradient strategies that each latent site of a guide can have.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        batch: a batch, a tensor, or `Splits`.
        particles: the number of draws of z per datum; the strategy leave-one-out needs two.
        where: ``limit``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Example:
        >>> import pvae, torch
        >>> model = pvae.GMVAE(4, components=3, inference="amortised", latent=2, hidden=8)
        >>> pvae.evaluate.strategies_of(model, torch.eye(4))["y"]
        ('score', 'score:leave-one-out', 'enumerate', 'measure')
    """
    with evaluation_context(model, batch, **{"split": "train", **where}) as context:
        guide_trace, _ = context.bound_to(context.batch).trace_both()
        sites = [site for site in sample_sites(guide_trace) if not site["is_observed"]]
        return {site["name"]: admissible(site, particles) for site in sites}


def search_gradients(
    model: Any,
    batch: Any,
    objectives: str | list[str] = "iwae:particles=2",
    *,
    most: int = 64,
    draws: int = 300,
    progress: Progress | None = None,
    **options: Any,
) -> GradientStudy:
    """Return a study of every assignment of gradient strategies to the guide's sites, to find the best estimator.

    ``study.ranking()`` sorts by variance times seconds in increasing order, with biased estimators last. The command
    line and `fit` accept the name of an assignment, such as ``"iwae:particles=2:gradients=z=enumerate"``.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        batch: a batch, a tensor, or `Splits`.
        objectives: one name or several (see `pvae list`); at least one must be an objective of log weights. Losses of
            Pyro, which choose their estimator themselves, are studied unchanged.
        most: the largest number of assignments of one objective. Assignments with the same strategy for all sites come
            first. The notes of the study give the number of assignments that are left out.
        draws: the number of draws of each gradient.
        progress: a function that is called with lines of text about the progress.
        options: the other options of `gradients`.

    Raises:
        InputError: if no objective is one of log weights, or `most` is below 1.

    Example:
        >>> import pvae, torch
        >>> model = pvae.GMVAE(4, components=3, inference="amortised", latent=2, hidden=8)
        >>> settings = {"most": 2, "draws": 3, "step": "eager"}
        >>> study = pvae.evaluate.search_gradients(model, torch.eye(4), "iwae:particles=2", **settings)
        >>> sorted({row.objective for row in study.ranking()})
        ['iwae:particles=2:gradients=y=leave-one-out+z=leave-one-out', 'iwae:particles=2:gradients=y=score+z=score']
    """
    most = require_whole(most, "most", advice="It is the largest number of assignments of one objective.")
    where = {name: value for name, value in options.items() if name in _CONTEXT_OPTIONS}
    studied: dict[str, Objective] = {}
    references: dict[str, Any] = {}
    notes: list[str] = []
    refused: list[str] = []
    for text in [objectives] if isinstance(objectives, str) else objectives:
        objective = make_objective(text)()
        if not isinstance(objective, WeightsObjective):
            studied |= _make_if_accepted(text, objective, refused)
            continue
        sites = strategies_of(model, batch, particles=objective.particles, **where)
        count = math.prod(len(strategies) for strategies in sites.values())
        if count > most:
            notes.append(
                f"{text}: {most} of {count} assignments were tried, those with one strategy for all sites first"
            )
        for assignment in itertools.islice(_assignments(sites), most):
            studied |= _make_if_accepted(_name(text, assignment), _factory(text, assignment), refused)
        references[text] = _factory(text, _reference_assignment(sites))
    if not references:
        raise InputError(
            "A search needs an objective of log weights, such as 'iwae:particles=2', because losses of Pyro choose "
            f"their estimator themselves; got {objectives!r}."
        )
    options["reference"] = options.get("reference") or references
    notes += refused
    return gradients(model, batch, studied, draws=draws, skip_refused=True, progress=progress, notes=notes, **options)


def _assignments(sites: Sites) -> Iterator[dict[str, str]]:
    """Yield every assignment of a strategy to each site; those with one strategy for all sites come first.

    A site that cannot have that strategy gets its first one.
    """
    uniform = []
    for strategy in dict.fromkeys(itertools.chain(*sites.values())):
        assignment = {name: strategy if strategy in known else known[0] for name, known in sites.items()}
        if assignment not in uniform:
            uniform.append(assignment)
            yield assignment
    for strategies in itertools.product(*sites.values()):
        assignment = dict(zip(sites, strategies, strict=True))
        if assignment not in uniform:
            yield assignment


def _reference_assignment(sites: Sites) -> dict[str, str]:
    """Return the strategy of each site in a reference."""
    return {
        name: next(strategy for strategy in _REFERENCE_STRATEGIES if strategy in known) for name, known in sites.items()
    }


def _name(text: str, assignment: Mapping[str, str]) -> str:
    """Return the name of an objective with an assignment, as on the command line.

    Colons separate settings there, so "score:" is left out of the names of strategies.
    """
    strategies = "+".join(f"{site}={strategy.removeprefix('score:')}" for site, strategy in assignment.items())
    return f"{text}:gradients={strategies}"


def _factory(text: str, assignment: Mapping[str, str]) -> Callable[[], Any]:
    """Return a function that makes the objective of a text with an assignment."""
    name, settings = parse(text)
    return functools.partial(OBJECTIVES[name][0], **settings, gradients=dict(assignment))


def _make_if_accepted(name: str, objective: Any, refused: list[str]) -> dict[str, Objective]:
    """Return an objective by its name; if it refuses the strategies, note it in `refused` and return {}.

    Args:
        name: the name of the objective in the study.
        objective: an objective, a loss of Pyro, or a function that makes one.
        refused: notes on the objectives that cannot be made.
    """
    try:
        return named_objectives({name: objective})
    except InputError as error:
        refused.append(f"{name}: refused: {error}")
        return {}
