"""EM: E-steps and M-steps in turn, until the bound rises no more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from pvae.em.base import Mixture, Statistics
from pvae.em.missing_values import Marginal
from pvae.em.passes import Passes
from pvae.em.routes import Route, Whitened
from pvae.em.updates import Prior, Update, maximised

__all__ = ["Ascent", "Rules", "ascend", "step"]


@dataclass(frozen=True)
class Rules:
    """How EM runs.

    Attributes:
        tol: it has converged where the bound changes by less, nats per datum.
        tol_relative: or by less than this share of what it has risen since the first step; None turns it off.
        max_iter: most steps.
        regularisation: added to each variance, (features,), in the coordinates of the frame.
        prior: of the parameters, in the coordinates of the frame.
        reseed: an empty component moves to the datum of the lowest log-likelihood, once each.
    """

    tol: float
    tol_relative: float | None
    max_iter: int
    regularisation: Tensor
    prior: Prior
    reseed: bool


@dataclass
class Ascent:
    """One run of EM.

    Attributes:
        mixture: the parameters after the last M-step, in the coordinates of the frame.
        bounds: bound before each M-step, nats per datum.
        log_likelihoods: the same without the log prior.
        counts: the responsibilities summed in the last E-step, (components,).
        converged: whether the bound stopped rising.
        falls: by how much the bound fell beyond rounding, for each step where it did.
        empty, floored, reseeded: components to which that happened, (components,) bool: the first in the last step.
    """

    mixture: Mixture
    counts: Tensor
    empty: Tensor
    floored: Tensor
    reseeded: Tensor
    bounds: list[float] = field(default_factory=list)
    log_likelihoods: list[float] = field(default_factory=list)
    falls: list[float] = field(default_factory=list)
    converged: bool = False


def ascend(
    passes: Passes, mixture: Mixture, rules: Rules, before: float, watch: Callable[[int, float, float], None]
) -> Ascent:
    """Run EM from a mixture.

    Args:
        passes: over the data.
        mixture: where to start, in the coordinates of the frame.
        rules: how to run.
        before: the bound before the first step, minus infinity where there is none.
        watch: called after each step with its number, from 1, the bound and its change.
    """
    none = torch.zeros_like(mixture.weights, dtype=torch.bool)
    run = Ascent(mixture, torch.zeros_like(mixture.weights), none, none, none.clone())
    route = passes.route(mixture)
    for number in range(1, rules.max_iter + 1):
        statistics, update, route = step(passes, route, rules)
        _record(run, passes, statistics, update, rules)
        change = run.bounds[-1] - before
        before = run.bounds[-1]
        watch(number, before, change)
        if rules.reseed and _reseeded(run, passes):
            before, route = float("-inf"), passes.route(run.mixture)
            continue
        if _fell(change, before, passes):
            run.falls.append(-change)
        elif _converged(run, change, rules):
            run.converged = True
            break
    return run


def step(passes: Passes, route: Route, rules: Rules) -> tuple[Statistics, Update, Route]:
    """One E-step and M-step, and the route of the next.

    Where the new covariances are too narrow for the route that found them, they are what cancellation left: the
    step is taken again by the careful route.
    """
    mixture, careful = route.mixture, isinstance(route, Marginal)
    statistics = passes.statistics(route)
    if not careful and (not isinstance(route, Whitened) or route.dtype != torch.float64):
        update = maximised(statistics, mixture, rules.regularisation, rules.prior)
        following = passes.route(update.mixture)
        same = type(following) is type(route) and following.dtype == route.dtype
        if same and not bool(update.floored.any()):
            return statistics, update, following
        statistics = passes.statistics(Whitened(mixture, torch.float64))
    update = maximised(statistics, mixture, rules.regularisation, rules.prior)
    return statistics, update, passes.route(update.mixture)


def _record(run: Ascent, passes: Passes, statistics: Statistics, update: Update, rules: Rules) -> None:
    weight = float(statistics.weight)
    log_scale = passes.columns.frame.log_scale()
    log_likelihood = float(statistics.log_likelihood) / weight - log_scale
    run.log_likelihoods.append(log_likelihood)
    run.bounds.append(log_likelihood + float(rules.prior.log_density(run.mixture)) / weight)
    run.mixture, run.counts, run.empty = update.mixture, statistics.counts, update.empty
    run.floored = run.floored | update.floored


def _fell(change: float, bound: float, passes: Passes) -> bool:
    rounding = 1e-5 if passes.dtype == torch.float32 else 1e-9
    return change < -rounding * max(1.0, abs(bound))


def _converged(run: Ascent, change: float, rules: Rules) -> bool:
    if abs(change) < rules.tol:
        return True
    risen = run.bounds[-1] - run.bounds[0]
    return rules.tol_relative is not None and len(run.bounds) > 1 and abs(change) <= rules.tol_relative * risen


def _reseeded(run: Ascent, passes: Passes) -> bool:
    """Move each component that is empty for the first time to the worst datum; whether any was."""
    chosen = (run.empty & ~run.reseeded).nonzero().flatten()[:1]
    if not len(chosen):
        return False
    mixture, family = run.mixture, run.mixture.family
    means, weights, covariances = mixture.means.clone(), mixture.weights.clone(), mixture.covariances.clone()
    means[chosen] = passes.worst(mixture)
    if family.name != "tied":
        others = weights.reshape(-1, *[1] * (covariances.ndim - 1)) / weights.sum()
        covariances[chosen] = (others * covariances).sum(0)
    weights[chosen] = 1 / len(weights)
    run.mixture = replace(family.mixture(weights / weights.sum(), means, covariances))
    run.reseeded[chosen] = True
    return True
