"""Where EM starts: responsibilities from k-means, from chosen data or at random, and one M-step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from pvae.em.base import Family, Mixture, Statistics
from pvae.em.clustering import Points, kmeans, plus_plus
from pvae.em.frame import Columns

__all__ = ["STARTS", "fallback", "moments_of", "start"]

Weighted = Iterable[tuple[Tensor, Tensor]]


def moments_of(family: Family, chunks: Weighted, about: Tensor) -> Statistics:
    """Return the moments of data under given responsibilities.

    Args:
        family: of the covariances.
        chunks: u, (features, batch), with r, (components, batch), which sample weights have multiplied.
        about: (components, features).
    """
    components, features = about.shape
    counts, first = about.new_zeros(components), torch.zeros_like(about)
    second = about.new_zeros(family.shape(components, features))
    for u, shares in chunks:
        d = u - about.unsqueeze(2)
        weighted = d * shares.unsqueeze(1)
        counts += shares.sum(1)
        first += weighted.sum(2)
        second += family.second(d, weighted)
    return Statistics(counts, first, second, about, counts.new_zeros(()), counts.sum())


def start(
    kind: str,
    family: Family,
    columns: Columns,
    stretch: Tensor,
    components: int,
    random: np.random.RandomState,
) -> Statistics:
    """Return the statistics that the first M-step takes.

    Args:
        kind: a name of `STARTS`.
        family: of the covariances.
        columns: the data; missing values stand at the mean.
        stretch: from the frame's coordinates to those in which k-means measures, (features,).
        components: how many.
        random: where draws come from, in scikit-learn's order.
    """
    points = Points(columns, stretch)
    return STARTS[kind](family, points, components, random)


def _pieces(points: Points, components: int) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """The data in the frame, few enough at a time for the differences to all components to stay small."""
    size = max(16, (1 << 17) // (components * points.features))
    for rows, z, weights in points.chunks():
        u = z / points.stretch.unsqueeze(1)
        for begin in range(0, u.shape[1], size):
            end = min(begin + size, u.shape[1])
            piece = None if weights is None else weights[begin:end]
            yield slice(rows.start + begin, rows.start + end), u[:, begin:end], piece


def _soft(points: Points, components: int, shares: Callable[[slice], Tensor]) -> Weighted:
    for rows, u, weights in _pieces(points, components):
        r = shares(rows).to(u.device)
        yield u, r if weights is None else r * weights


def _from_kmeans(family: Family, points: Points, components: int, random: np.random.RandomState) -> Statistics:
    centres, labels = kmeans(points, components, random)
    kinds = torch.arange(components).unsqueeze(1)
    chunks = _soft(points, components, lambda rows: (labels[rows] == kinds).double())
    return moments_of(family, chunks, centres / points.stretch)


def _from_random(family: Family, points: Points, components: int, random: np.random.RandomState) -> Statistics:
    def shares(rows: slice) -> Tensor:
        drawn = random.uniform(size=(rows.stop - rows.start, components))
        return torch.as_tensor(drawn / drawn.sum(axis=1, keepdims=True)).mT

    about = torch.zeros(components, points.features, dtype=torch.float64, device=points.device)
    return moments_of(family, _soft(points, components, shares), about)


def _at(family: Family, points: Points, indices: np.ndarray) -> Statistics:
    """One datum for each component: its covariance is nothing but the regularisation."""
    means = points.take(indices) / points.stretch
    counts = torch.ones(len(indices), dtype=torch.float64, device=means.device)
    second = means.new_zeros(family.shape(*means.shape))
    if family.outer:
        # The chosen data alone say nothing of a shared covariance: it starts as that of all data.
        second = _outer(points) * (len(indices) / points.columns.frame.weight)
    return Statistics(counts, torch.zeros_like(means), second, means, counts.new_zeros(()), counts.sum())


def _outer(points: Points) -> Tensor:
    total = torch.zeros(points.features, points.features, dtype=torch.float64, device=points.device)
    for _, z, weights in points.chunks():
        u = z / points.stretch.unsqueeze(1)
        total += (u if weights is None else u * weights) @ u.mT
    return total


def _from_data(family: Family, points: Points, components: int, random: np.random.RandomState) -> Statistics:
    weights = points.weights()
    shares = None if weights is None else weights / weights.sum()
    return _at(family, points, random.choice(points.count, size=components, replace=False, p=shares))


def _from_plus_plus(family: Family, points: Points, components: int, random: np.random.RandomState) -> Statistics:
    return _at(family, points, plus_plus(points, components, random))


STARTS: dict[str, Callable[[Family, Points, int, np.random.RandomState], Statistics]] = {
    "kmeans": _from_kmeans,
    "k-means++": _from_plus_plus,
    "random": _from_random,
    "random_from_data": _from_data,
}


def fallback(family: Family, means: Tensor, spread: Tensor, regularisation: Tensor) -> Mixture:
    """Return components of equal weight with the data's own variances: what one that gets no data keeps."""
    variances = spread + regularisation.clamp_min(torch.finfo(torch.float64).eps)
    covariances = family.add_diagonal(variances, means.new_zeros(family.shape(*means.shape)))
    return family.mixture(means.new_full((len(means),), 1 / len(means)), means, covariances)
