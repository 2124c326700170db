"""Which gradient estimator suits a model: every admissible assignment of strategies to the guide's sites, tried."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import prepared
from pvae.evaluate.gradient_estimators.compare import Progress, gradients, named_objectives
from pvae.evaluate.gradient_estimators.gradient_study import GradientStudy
from pvae.names import parse
from pvae.objectives import WeightsObjective, make_objective
from pvae.objectives.gradients.strategies import admissible
from pvae.objectives.registry import OBJECTIVES
from pvae.programs.sites import sample_sites

__all__ = ["search_gradients", "strategies_of"]


def strategies_of(model: Any, batch: Any, *, particles: int = 2, **where: Any) -> dict[str, tuple[str, ...]]:
    """Return the gradient strategies that each latent site of a guide can have.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        batch: a batch, a tensor, or `Splits`.
        particles: draws of z per datum: leave-one-out needs two.
        where: ``limit``, ``device``, ``split``, ``fields``, ``data_plate`` of `prepared`.
    """
    with prepared(model, batch, **{"split": "train", **where}) as setting:
        guide, _ = setting.traces(setting.batch)
        sites = [site for site in sample_sites(guide) if not site["is_observed"]]
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
    """Return a study of every assignment of gradient strategies to the guide's sites: the answer to "which estimator?".

    ``study.ranking()`` puts the least variance times seconds first, and what is biased last. An assignment bears the
    name that the command line and `fit` take: ``"iwae:particles=2:gradients=z=enumerate"``.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        batch: a batch, a tensor, or `Splits`.
        objectives: one name or several (`pvae list`), whose gradients are to be taken; at least one of log weights.
            Those of Pyro, which choose their estimator themselves, are studied as they are.
        most: the largest number of assignments of one objective; those that treat all sites alike come first. The
            study says how many were left out.
        draws: of each gradient.
        progress: called with a line now and then.
        options: as for `gradients`.

    Raises:
        InputError: if no objective is made of log weights, or `most` is below 1.
    """
    most = require_whole(most, "most", advice="It is the largest number of assignments of one objective.")
    places = ("limit", "device", "split", "fields", "data_plate")
    where = {name: value for name, value in options.items() if name in places}
    named: dict[str, Any] = {}
    notes: list[str] = []
    references: dict[str, Any] = {}
    for text in [objectives] if isinstance(objectives, str) else objectives:
        objective = make_objective(text)()
        if not isinstance(objective, WeightsObjective):
            named[text] = objective
            continue
        sites = strategies_of(model, batch, particles=objective.particles, **where)
        every = math.prod(len(each) for each in sites.values())
        if every > most:
            notes.append(f"{text}: {most} of {every} assignments were tried, those that treat all sites alike first")
        named |= {_name(text, each): _objective(text, each) for each in itertools.islice(_assignments(sites), most)}
        references[text] = _objective(text, _unbiased(sites))
    if not any(isinstance(each, functools.partial) for each in named.values()):
        raise InputError("A search needs an objective of log weights, such as 'iwae:particles=2'; Pyro's choose alone.")
    possible = _possible(named, notes)
    options["reference"] = options.get("reference") or references
    return gradients(model, batch, possible, draws=draws, skip_refused=True, progress=progress, notes=notes, **options)


def _assignments(sites: Mapping[str, tuple[str, ...]]) -> Iterator[dict[str, str]]:
    """Every assignment; first those that give all sites one strategy, or the first one where a site cannot have it."""
    seen = []
    for strategy in dict.fromkeys(itertools.chain(*sites.values())):
        alike = {name: strategy if strategy in known else known[0] for name, known in sites.items()}
        if alike not in seen:
            seen.append(alike)
            yield alike
    for chosen in itertools.product(*sites.values()):
        each = dict(zip(sites, chosen, strict=True))
        if each not in seen:
            yield each


def _unbiased(sites: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """For each site the strategy that a reference takes: unbiased, of low variance, and cheap in many dimensions."""
    order = ("pathwise", "score:leave-one-out", "measure", "score")
    return {name: next(each for each in order if each in known) for name, known in sites.items()}


def _name(text: str, assignment: Mapping[str, str]) -> str:
    """The name on the command line: colons part settings there, so that a strategy's own is left out."""
    chosen = "+".join(f"{site}={strategy.removeprefix('score:')}" for site, strategy in assignment.items())
    return f"{text}:gradients={chosen}"


def _objective(text: str, assignment: Mapping[str, str]) -> Any:
    name, settings = parse(text)
    return functools.partial(OBJECTIVES[name][0], **settings, gradients=dict(assignment))


def _possible(named: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The objectives that can be made: some refuse a strategy outright."""
    found: dict[str, Any] = {}
    for name, make in named.items():
        try:
            found |= named_objectives({name: make})
        except InputError as error:
            notes.append(f"{name}: refused: {error}")
    return found
