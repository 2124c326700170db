"""Split-and-merge EM: a way out of local optima where components are too many here and too few there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pvae.em.ascent import Ascent, Rules, ascend
from pvae.em.base import Mixture
from pvae.em.frame import Columns
from pvae.em.overlap import Look, look, merged, scatter
from pvae.em.passes import Passes, shares
from pvae.em.row_sources import Rows, Weighted

__all__ = ["Move", "split_and_merge"]

#: Steps of EM on the three components of a move, before all take part.
PARTIAL_STEPS = 30
#: Half the distance of the two halves of a split, in standard deviations; the covariances shrink by as much.
DISTANCE = 0.8


@dataclass(frozen=True)
class Move:
    """Two components became one, a third became two, and the bound rose.

    Attributes:
        merged: numbers of the two; the first is that of what they became, the second that of a half of the third.
        split: number of the third, and of its other half.
        gain: of the bound, nats per datum.
    """

    merged: tuple[int, int]
    split: int
    gain: float


def split_and_merge(
    passes: Passes,
    run: Ascent,
    rules: Rules,
    trials: int,
    random: np.random.RandomState,
    climb: Callable[[Mixture], Ascent],
) -> tuple[Ascent, list[Move]]:
    """Return a run whose bound is as high or higher, and the moves that led there.

    Pairs are tried in order of how much their posteriors overlap, and with each pair the others in order of how badly
    they fit: with p(x) under all components, the divergence of a component's data from it that the source orders by is
    minus the data's mean log p(x), up to a constant. A move is kept where the bound rises by more than ``tol``, below
    which two runs that converged to the same optimum may differ.

    Args:
        passes: over the data.
        run: that ended, of at least one step.
        rules: how EM runs.
        trials: moves to try in a row that bring nothing, before giving up; 5 in the source.
        random: draws the directions in which components are split.
        climb: runs EM from a mixture.
    Source: Ueda, Nakano, Ghahramani & Hinton, SMEM algorithm for mixture models, Neural Computation 12, 2000.
    """
    moves: list[Move] = []
    seen = look(passes, run.mixture, rules)
    while True:
        for i, j, k in islice(_candidates(seen), trials):
            tried = climb(_moved(passes, run.mixture, (i, j, k), rules, random))
            found = look(passes, tried.mixture, rules)
            gain = found.bound - seen.bound
            if gain > _margin(seen, passes, rules) and tried.bounds[-1] > run.bounds[-1]:
                run, seen = tried, found
                moves.append(Move((i, j), k, gain))
                break
        else:
            return run, moves


def _margin(seen: Look, passes: Passes, rules: Rules) -> float:
    rounding = 1e-5 if passes.dtype == torch.float32 else 1e-9
    return max(rules.tol, rounding * max(1.0, abs(seen.bound)))


def _candidates(seen: Look) -> Iterator[tuple[int, int, int]]:
    """Yield two components to merge and one to split, the most promising first."""
    overlap = seen.overlap()
    # A component without data is merged for nothing.
    empty = seen.gram.diagonal() == 0
    overlap[empty], overlap[:, empty] = 1.0, 1.0
    rows, columns = torch.triu_indices(len(overlap), len(overlap), 1).tolist()
    pairs = overlap[rows, columns].argsort(descending=True, stable=True).tolist()
    worst = seen.surprise.where(~empty, -float("inf")).argsort(descending=True, stable=True).tolist()
    for pair in pairs:
        i, j = rows[pair], columns[pair]
        yield from ((i, j, k) for k in worst if k not in (i, j))


def _moved(
    passes: Passes, mixture: Mixture, chosen: tuple[int, int, int], rules: Rules, random: np.random.RandomState
) -> Mixture:
    """Return the mixture after a move, and after EM on the three components of the move alone."""
    index = torch.tensor(chosen, device=mixture.means.device)
    part = mixture.take(index)
    total = part.weights.sum()
    part = replace(part, weights=part.weights / total)
    direction = torch.as_tensor(random.standard_normal(mixture.features)).to(mixture.means)
    halves = _halves(part.take(index.new_tensor([2])), passes.processes.from_first(direction))
    pair = merged(part.take(index.new_tensor([0, 1])), [[0, 1]])
    part = _put(part, torch.tensor([0, 1, 2], device=index.device), _joined(pair, halves))
    part = _partial(passes, mixture, index, part, rules)
    return _put(mixture, index, replace(part, weights=part.weights * total))


def _halves(one: Mixture, direction: Tensor) -> Mixture:
    """Return a component as two of half its weight, with its mean and covariance (of tied ones, its mean)."""
    family, features = one.family, one.features
    root = family.dense(one.roots, 1, features)[0]
    # In whitened coordinates, drawn towards the long axes: two clusters under one component stretch it.
    direction = root.mT @ (root @ direction)
    step = DISTANCE * (root @ (direction / direction.norm())).unsqueeze(0)
    covariances = one.covariances
    if family.name != "tied":
        count = torch.ones_like(one.weights)
        second = scatter(family, covariances, count, features)
        covariances = family.divided(family.moved(second, torch.zeros_like(step), -count, step), count, features)
        covariances = torch.cat([covariances, covariances])
    weights = torch.cat([one.weights, one.weights]) / 2
    return family.mixture(weights, torch.cat([one.means - step, one.means + step]), covariances)


def _joined(first: Mixture, others: Mixture) -> Mixture:
    family = first.family
    covariances = others.covariances
    if family.name != "tied":
        covariances = torch.cat([first.covariances, covariances])
    weights, means = torch.cat([first.weights, others.weights]), torch.cat([first.means, others.means])
    return family.mixture(weights, means, covariances)


def _put(mixture: Mixture, index: Tensor, part: Mixture) -> Mixture:
    """Return the mixture with some components replaced; a covariance that all share stays."""
    weights, means, covariances = mixture.weights.clone(), mixture.means.clone(), mixture.covariances.clone()
    weights[index], means[index] = part.weights, part.means
    if mixture.family.name != "tied":
        covariances[index] = part.covariances
    return mixture.family.mixture(weights, means, covariances)


def _partial(passes: Passes, mixture: Mixture, index: Tensor, part: Mixture, rules: Rules) -> Mixture:
    """Return three components after EM in which the posteriors of all others stand still.

    That is EM for the three on data that count as much as the three had of them.
    """
    route = passes.route(mixture)
    kept = [shares(route, prepared)[index].sum(0).double() for prepared, _ in passes.columns.prepared(route)]
    columns = passes.columns
    rows: Rows = Weighted(columns.rows, torch.cat(kept))
    some = Passes(Columns(rows, columns.frame), passes.dtype, passes.missing, passes.processes)
    steps = replace(rules, tol=0.0, tol_relative=None, max_iter=min(PARTIAL_STEPS, rules.max_iter), reseed=False)
    return ascend(some, part, steps, float("-inf"), lambda *_: None).mixture
