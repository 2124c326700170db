"""Statistics for the first M-step: from k-means, from selected data, or from random responsibilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from pvae.em.base import CovarianceFamily, Mixture, Statistics
from pvae.em.initialisation.kmeans import KMeansData, kmeans, kmeans_plus_plus
from pvae.em.rows.standardised_chunks import StandardisedChunks

__all__ = ["INITIALISERS", "initialise_statistics", "make_equal_components", "sum_statistics"]

#: u, (features, batch), and responsibilities times sample weights, (components, batch).
SoftChunks = Iterable[tuple[Tensor, Tensor]]


def sum_statistics(family: CovarianceFamily, chunks: SoftChunks, origins: Tensor) -> Statistics:
    """Return the statistics of data under fixed responsibilities; the log-likelihood is 0.

    Args:
        family: of the covariances.
        chunks: u, (features, batch), with responsibilities times sample weights, (components, batch).
        origins: of the moments, (components, features).
    """
    components, features = origins.shape
    counts = origins.new_zeros(components)
    first = torch.zeros_like(origins)
    second = origins.new_zeros(family.covariance_shape(components, features))
    for u, responsibilities in chunks:
        deviations = u - origins.unsqueeze(2)
        weighted = deviations * responsibilities.unsqueeze(1)
        counts += responsibilities.sum(1)
        first += weighted.sum(2)
        second += family.weighted_second_moments(deviations, weighted)
    return Statistics(counts, first, second, origins, counts.new_zeros(()), counts.sum())


def initialise_statistics(
    init_params: str,
    family: CovarianceFamily,
    data: StandardisedChunks,
    feature_scale: Tensor,
    components: int,
    random: np.random.RandomState,
) -> Statistics:
    """Return the statistics for the first M-step.

    Args:
        init_params: a name in `INITIALISERS`.
        family: of the covariances.
        data: the standardised data; missing values are replaced by the mean.
        feature_scale: factors from standardised coordinates to those in which k-means measures distance, (features,).
        components: number of components.
        random: for the draws, in the order of scikit-learn.
    """
    return INITIALISERS[init_params](family, KMeansData(data, feature_scale), components, random)


def _small_chunks(data: KMeansData, components: int) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Yield row numbers, u and sample weights, in chunks so small that deviations from all components are small."""
    size = max(16, (1 << 17) // (components * data.features))
    for rows, z, weights in data.chunks():
        u = z / data.feature_scale.unsqueeze(1)
        for start in range(0, u.shape[1], size):
            end = min(start + size, u.shape[1])
            part = None if weights is None else weights[start:end]
            yield slice(rows.start + start, rows.start + end), u[:, start:end], part


def _soft_chunks(data: KMeansData, components: int, responsibilities: Callable[[slice], Tensor]) -> SoftChunks:
    """Yield u and responsibilities times sample weights; `responsibilities` returns (components, batch) for rows."""
    for rows, u, weights in _small_chunks(data, components):
        r = responsibilities(rows).to(u.device)
        yield u, r if weights is None else r * weights


def _from_kmeans(
    family: CovarianceFamily, data: KMeansData, components: int, random: np.random.RandomState
) -> Statistics:
    centres, labels = kmeans(data, components, random)
    numbers = torch.arange(components).unsqueeze(1)
    chunks = _soft_chunks(data, components, lambda rows: (labels[rows] == numbers).double())
    return sum_statistics(family, chunks, centres / data.feature_scale)


def _from_random(
    family: CovarianceFamily, data: KMeansData, components: int, random: np.random.RandomState
) -> Statistics:
    def draw_responsibilities(rows: slice) -> Tensor:
        drawn = random.uniform(size=(rows.stop - rows.start, components))
        return torch.as_tensor(drawn / drawn.sum(axis=1, keepdims=True)).mT

    origins = torch.zeros(components, data.features, dtype=torch.float64, device=data.device)
    return sum_statistics(family, _soft_chunks(data, components, draw_responsibilities), origins)


def _from_rows(family: CovarianceFamily, data: KMeansData, indices: np.ndarray) -> Statistics:
    """Return the statistics of one datum for each component: the covariances are the regularisation alone.

    A shared covariance cannot be estimated from the selected data: tied covariances start as that of all data.
    """
    means = data.take(indices) / data.feature_scale
    counts = torch.ones(len(indices), dtype=torch.float64, device=means.device)
    second = means.new_zeros(family.covariance_shape(*means.shape))
    if family.name == "tied":
        second = _outer_sum(data) * (len(indices) / data.data.standardiser.weight)
    return Statistics(counts, torch.zeros_like(means), second, means, counts.new_zeros(()), counts.sum())


def _outer_sum(data: KMeansData) -> Tensor:
    """Return the sum of u u' over the data, (features, features)."""
    total = torch.zeros(data.features, data.features, dtype=torch.float64, device=data.device)
    for _, z, weights in data.chunks():
        u = z / data.feature_scale.unsqueeze(1)
        total += (u if weights is None else u * weights) @ u.mT
    return total


def _from_random_rows(
    family: CovarianceFamily, data: KMeansData, components: int, random: np.random.RandomState
) -> Statistics:
    weights = data.weights()
    probabilities = None if weights is None else weights / weights.sum()
    return _from_rows(family, data, random.choice(data.rows, size=components, replace=False, p=probabilities))


def _from_plus_plus(
    family: CovarianceFamily, data: KMeansData, components: int, random: np.random.RandomState
) -> Statistics:
    return _from_rows(family, data, kmeans_plus_plus(data, components, random))


INITIALISERS: dict[str, Callable[[CovarianceFamily, KMeansData, int, np.random.RandomState], Statistics]] = {
    "kmeans": _from_kmeans,
    "k-means++": _from_plus_plus,
    "random": _from_random,
    "random_from_data": _from_random_rows,
}


def make_equal_components(
    family: CovarianceFamily, means: Tensor, mean_square: Tensor, regularisation: Tensor
) -> Mixture:
    """Return components of equal weight with the variances of all data. A component without data keeps these.

    Args:
        family: of the covariances.
        means: (components, features).
        mean_square: variance of each feature, (features,).
        regularisation: added to each variance, (features,).
    """
    variances = mean_square + regularisation.clamp_min(torch.finfo(torch.float64).eps)
    covariances = family.add_diagonal(variances, means.new_zeros(family.covariance_shape(*means.shape)))
    return family.make_mixture(means.new_full((len(means),), 1 / len(means)), means, covariances)
