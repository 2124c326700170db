"""Split-and-merge EM: leaves local optima with too many components in one region and too few in another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pvae.em.base import Mixture
from pvae.em.e_step import EStep, chunk_responsibilities
from pvae.em.em_options import EMOptions
from pvae.em.em_run import EMRun, RunFrom, run_em
from pvae.em.merging.combine import combine_groups, scatter_from_covariances
from pvae.em.merging.posterior_summary import PosteriorSummary, summarise_posteriors
from pvae.em.rows.row_sources import WeightedRows
from pvae.em.rows.standardised_chunks import StandardisedChunks

__all__ = ["Move", "split_and_merge"]

#: Number of steps of EM on the three components of a move, before EM on all components.
PARTIAL_STEPS = 30
#: Half the distance between the two halves of a split component, in standard deviations. The covariances shrink by
#: the variance that this distance adds.
HALF_DISTANCE = 0.8


@dataclass(frozen=True)
class Move:
    """A move that was kept: two components were merged, a third was split, and the bound rose.

    Attributes:
        merged: numbers of the two components. The first number is now that of the merged component, the second number
            that of one half of the split component.
        split: number of the split component, and now of its other half.
        gain: rise of the bound, nats per datum.
    """

    merged: tuple[int, int]
    split: int
    gain: float


def split_and_merge(
    e_step: EStep,
    run: EMRun,
    options: EMOptions,
    trials: int,
    random: np.random.RandomState,
    run_from: RunFrom,
) -> tuple[EMRun, list[Move]]:
    """Try moves that merge two components and split a third, and keep those that raise the bound.

    Pairs are tried in order of the overlap of their posteriors. For each pair, the other components are tried in order
    of how badly they fit. The source orders them by the divergence of a component's data from a density. With p(x) of
    all components as this density, it is minus the mean of log p(x) over the component's data, up to a constant. A
    move is kept if the bound rises by more than ``tol``: two runs that converge to the same optimum may differ by less.

    Args:
        e_step: the E-step over the data.
        run: a run of EM that has ended, of at least one step.
        options: of the run.
        trials: number of moves in a row without success after which the search ends; 5 in the source.
        random: for the directions in which components are split.
        run_from: runs EM from a mixture.

    Returns:
        A run with a bound that is not lower, and the moves that led to it.

    Source: Ueda, Nakano, Ghahramani & Hinton, SMEM algorithm for mixture models, Neural Computation 12, 2000.
    """
    moves: list[Move] = []
    summary = summarise_posteriors(e_step, run.mixture, options)
    while True:
        for i, j, k in islice(_candidate_moves(summary), trials):
            candidate = run_from(_apply_move(e_step, run.mixture, (i, j, k), options, random))
            candidate_summary = summarise_posteriors(e_step, candidate.mixture, options)
            gain = candidate_summary.bound - summary.bound
            if gain > _smallest_gain(summary, e_step, options) and candidate.bounds[-1] > run.bounds[-1]:
                run = candidate
                summary = candidate_summary
                moves.append(Move((i, j), k, gain))
                break
        else:
            return run, moves


def _smallest_gain(summary: PosteriorSummary, e_step: EStep, options: EMOptions) -> float:
    return max(options.tol, e_step.rounding * max(1.0, abs(summary.bound)))


def _candidate_moves(summary: PosteriorSummary) -> Iterator[tuple[int, int, int]]:
    """Yield two components to merge and one to split, the most promising move first."""
    overlap = summary.overlap()
    # Merging a component without data does not change the likelihood: such pairs come first.
    is_empty = summary.gram.diagonal() == 0
    overlap[is_empty] = 1.0
    overlap[:, is_empty] = 1.0
    rows, columns = torch.triu_indices(len(overlap), len(overlap), 1).tolist()
    pairs = overlap[rows, columns].argsort(descending=True, stable=True).tolist()
    misfit = summary.misfit.where(~is_empty, -float("inf"))
    by_misfit = misfit.argsort(descending=True, stable=True).tolist()
    for pair in pairs:
        i, j = rows[pair], columns[pair]
        for k in by_misfit:
            if k not in (i, j):
                yield i, j, k


def _apply_move(
    e_step: EStep, mixture: Mixture, move: tuple[int, int, int], options: EMOptions, random: np.random.RandomState
) -> Mixture:
    """Return the mixture after a move, and after EM on the three components of the move alone.

    Args:
        e_step: the E-step over the data.
        mixture: in standardised coordinates.
        move: numbers of two components to merge and one to split.
        options: of EM.
        random: for the direction of the split.
    """
    indices = torch.tensor(move, device=mixture.means.device)
    part = mixture.take(indices)
    part_weight = part.weights.sum()
    part = replace(part, weights=part.weights / part_weight)
    direction = torch.as_tensor(random.standard_normal(mixture.features)).to(mixture.means)
    halves = _split_component(part.take(indices.new_tensor([2])), e_step.group.broadcast(direction))
    pair = combine_groups(part.take(indices.new_tensor([0, 1])), [[0, 1]])
    part = _replace_components(part, torch.tensor([0, 1, 2], device=indices.device), _concatenate(pair, halves))
    part = _run_partial_em(e_step, mixture, indices, part, options)
    return _replace_components(mixture, indices, replace(part, weights=part.weights * part_weight))


def _split_component(component: Mixture, direction: Tensor) -> Mixture:
    """Return a component as two of half its weight that together keep its mean and covariance.

    With tied covariances they keep the mean only.

    Args:
        component: a mixture of one component.
        direction: random direction in whitened coordinates, (features,).
    """
    family = component.family
    features = component.features
    root = family.to_dense(component.roots, 1, features)[0]
    # The direction is pulled towards the long axes of the covariance: two clusters in one component stretch it.
    direction = root.mT @ (root @ direction)
    offset = HALF_DISTANCE * (root @ (direction / direction.norm())).unsqueeze(0)
    covariances = component.covariances
    if family.name != "tied":
        counts = torch.ones_like(component.weights)
        scatter = scatter_from_covariances(family, covariances, counts, features)
        shrunk = family.shift_second_moments(scatter, torch.zeros_like(offset), -counts, offset)
        covariances = family.covariances_from_scatter(shrunk, counts, features)
        covariances = torch.cat([covariances, covariances])
    weights = torch.cat([component.weights, component.weights]) / 2
    means = torch.cat([component.means - offset, component.means + offset])
    return family.make_mixture(weights, means, covariances)


def _concatenate(first: Mixture, second: Mixture) -> Mixture:
    """Return the components of both mixtures; tied covariances are those of the second."""
    family = first.family
    covariances = second.covariances
    if family.name != "tied":
        covariances = torch.cat([first.covariances, covariances])
    weights = torch.cat([first.weights, second.weights])
    return family.make_mixture(weights, torch.cat([first.means, second.means]), covariances)


def _replace_components(mixture: Mixture, indices: Tensor, part: Mixture) -> Mixture:
    """Return the mixture with the components at `indices` replaced; a tied covariance is unchanged."""
    weights = mixture.weights.clone()
    means = mixture.means.clone()
    covariances = mixture.covariances.clone()
    weights[indices] = part.weights
    means[indices] = part.means
    if mixture.family.name != "tied":
        covariances[indices] = part.covariances
    return mixture.family.make_mixture(weights, means, covariances)


def _run_partial_em(e_step: EStep, mixture: Mixture, indices: Tensor, part: Mixture, options: EMOptions) -> Mixture:
    """Return three components after EM in which the posteriors of all other components are fixed.

    This is EM for the three components on data with the sum of their posteriors under `mixture` as weights.

    Args:
        e_step: the E-step over the data.
        mixture: all components before the move.
        indices: numbers of the three components, (3,).
        part: initial parameters of the three components.
        options: of EM.
    """
    kernel = e_step.make_kernel(mixture)
    shares = [
        chunk_responsibilities(kernel, prepared)[indices].sum(0).double()
        for prepared, _ in e_step.data.prepared_chunks(kernel)
    ]
    weighted_rows = WeightedRows(e_step.data.rows, torch.cat(shares))
    data = StandardisedChunks(weighted_rows, e_step.data.standardiser)
    partial_e_step = EStep(data, e_step.dtype, e_step.has_missing, e_step.group, e_step.products)
    steps = min(PARTIAL_STEPS, options.max_iter)
    partial_options = replace(options, tol=0.0, tol_relative=None, max_iter=steps, reseed=False)
    return run_em(partial_e_step, part, partial_options, float("-inf"), lambda *_: None).mixture
