"""k-means in chunks: k-means++ and Lloyd's algorithm, with the random draws of scikit-learn in the same order.

No matrix of data by clusters is stored: beside the data, k-means++ keeps two numbers for each datum and Lloyd's
algorithm keeps one label. From the same random state the result is that of scikit-learn, up to ties.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pvae.em.rows.standardised_chunks import StandardisedChunks

__all__ = ["KMeansData", "kmeans", "kmeans_plus_plus"]

#: Number of data in a chunk.
CHUNK_SIZE = 4096


class KMeansData:
    """Standardised data with each feature multiplied by a factor: the coordinates in which k-means measures distance.

    Args:
        data: the standardised data; missing values are replaced by the mean.
        feature_scale: the factors, (features,).
    """

    def __init__(self, data: StandardisedChunks, feature_scale: Tensor) -> None:
        self.data = data
        self.feature_scale = feature_scale
        self.rows = data.standardiser.rows
        self.features = data.rows.features
        self.device = data.rows.device

    def chunks(self) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Yield the row numbers of a chunk, its coordinates, (features, batch), and sample weights or None."""
        start = 0
        for u, weights in self.data.chunks(CHUNK_SIZE, torch.float64):
            end = start + u.shape[1]
            yield slice(start, end), (u * self.feature_scale.unsqueeze(1)).nan_to_num_(0.0), weights
            start = end

    def take(self, indices: np.ndarray) -> Tensor:
        """Return the coordinates of selected data, (selected, features).

        Args:
            indices: row numbers in any order, (selected,).
        """
        order = np.argsort(indices, kind="stable")
        rows = self.data.rows.take(indices[order]).double()
        standardiser = self.data.standardiser
        z = ((rows - standardiser.shift) / standardiser.scale * self.feature_scale).nan_to_num(0.0)
        return z[torch.as_tensor(np.argsort(order), device=self.device)]

    def weights(self) -> np.ndarray | None:
        """Return all sample weights, (rows,), or None for 1 each."""
        parts = [weights for _, _, weights in self.chunks() if weights is not None]
        return torch.cat(parts).cpu().numpy() if parts else None


def _squared_distances(z: Tensor, centres: Tensor) -> Tensor:
    """Return squared distances between data, (features, batch), and centres, as (centres, batch).

    They are sums of squared differences, so that the distance between duplicates is exactly 0.
    """
    return (z - centres.unsqueeze(2)).square().sum(1)


def kmeans_plus_plus(data: KMeansData, clusters: int, random: np.random.RandomState) -> np.ndarray:
    """Return row numbers of initial centres that are far from each other, (clusters,).

    Each centre is the best of a few candidates, drawn with probability proportional to the squared distance.

    Args:
        data: the data.
        clusters: number of clusters.
        random: for the draws.

    Source: Arthur & Vassilvitskii, k-means++: the advantages of careful seeding, 2007.
    """
    trials = 2 + int(math.log(clusters))
    weights = data.weights()
    chosen = np.empty(clusters, dtype=np.int64)
    chosen[0] = _draw_row(data.rows, weights, random)
    closest = np.empty(data.rows)
    potential = _update_closest(data, data.take(chosen[:1]), closest, is_first=True)
    for number in range(1, clusters):
        thresholds = random.uniform(size=trials) * potential
        cumulative = np.cumsum(closest if weights is None else closest * weights)
        candidates = np.searchsorted(cumulative, thresholds).clip(None, data.rows - 1)
        del cumulative
        centres = data.take(candidates)
        best = int(np.argmin(_potentials(data, centres, closest)))
        chosen[number] = candidates[best]
        potential = _update_closest(data, centres[best : best + 1], closest, is_first=False)
    return chosen


def _draw_row(rows: int, weights: np.ndarray | None, random: np.random.RandomState) -> int:
    if weights is None:
        # The draw of random.choice(rows, p=uniform), without its tables.
        return min(int(random.random_sample() * rows), rows - 1)
    return int(random.choice(rows, p=weights / weights.sum()))


def _potentials(data: KMeansData, centres: Tensor, closest: np.ndarray) -> np.ndarray:
    """Return, for each candidate centre, the sum of squared distances to the closest centre if it were added.

    Args:
        data: the data.
        centres: candidates, (candidates, features).
        closest: squared distance of each datum to the closest centre so far, (rows,).
    """
    sums = torch.zeros(len(centres), dtype=torch.float64, device=data.device)
    for rows, z, weights in data.chunks():
        closest_so_far = torch.as_tensor(closest[rows], device=z.device)
        distances = _squared_distances(z, centres).minimum(closest_so_far)
        sums += distances.sum(1) if weights is None else distances @ weights
    return sums.cpu().numpy()


def _update_closest(data: KMeansData, centre: Tensor, closest: np.ndarray, *, is_first: bool) -> float:
    """Write squared distances to the closest centre into `closest`, after a centre was added; return their sum.

    Args:
        data: the data.
        centre: the new centre, (1, features).
        closest: squared distance of each datum to the closest centre so far, (rows,).
        is_first: whether there is no other centre.
    """
    potential = 0.0
    for rows, z, weights in data.chunks():
        distances = _squared_distances(z, centre)[0]
        if not is_first:
            distances = distances.minimum(torch.as_tensor(closest[rows], device=z.device))
        closest[rows] = distances.cpu().numpy()
        potential += float(distances.sum() if weights is None else distances @ weights)
    return potential


def kmeans(
    data: KMeansData, clusters: int, random: np.random.RandomState, *, iterations: int = 300, tol: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Cluster data by Lloyd's algorithm, starting from k-means++.

    Args:
        data: the data.
        clusters: number of clusters.
        random: for the draws of k-means++.
        iterations: largest number of iterations.
        tol: the algorithm stops if the centres move by less than this share of the mean variance, or if no label
            changes.

    Returns:
        Centres, (clusters, features), and the label of each datum, (rows,), int16 or int32, on the CPU.

    Source: Lloyd, Least squares quantization in PCM, IEEE Trans. Inf. Theory 28, 1982.
    """
    centres = data.take(kmeans_plus_plus(data, clusters, random))
    dtype = torch.int16 if clusters < 1 << 15 else torch.int32
    labels = torch.full((data.rows,), -1, dtype=dtype)
    smallest_move = tol * float((data.data.standardiser.mean_square * data.feature_scale.square()).mean())
    for _ in range(iterations):
        sums, counts, changed = _assign_labels(data, centres, labels)
        new_centres = _update_centres(data, centres, labels, sums, counts)
        move = float((new_centres - centres).square().sum())
        centres = new_centres
        if not changed:
            return centres, labels
        if move <= smallest_move:
            break
    _assign_labels(data, centres, labels)
    return centres, labels


def _assign_labels(data: KMeansData, centres: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Write the label of the closest centre of each datum into `labels`, (rows,).

    Returns:
        Sum of the data of each cluster, (clusters, features), its weight, (clusters,), and whether a label changed.
    """
    sums = torch.zeros_like(centres)
    counts = centres.new_zeros(len(centres))
    half_squares = 0.5 * centres.square().sum(1, keepdim=True)
    changed = False
    for rows, z, weights in data.chunks():
        _, closest = torch.addmm(half_squares, centres, z, alpha=-1).min(0)
        counts.index_add_(0, closest, z.new_ones(z.shape[1]) if weights is None else weights)
        sums.index_add_(0, closest, (z if weights is None else z * weights).mT)
        new_labels = closest.to(labels.dtype).cpu()
        changed = changed or not torch.equal(new_labels, labels[rows])
        labels[rows] = new_labels
    return sums, counts, changed


def _update_centres(data: KMeansData, centres: Tensor, labels: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """Return the means of the clusters; an empty cluster gets the datum that is furthest from its centre."""
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        _fill_empty_clusters(data, centres, labels, sums, counts, empty)
    mean_of_largest = sums[counts.argmax()] / counts.max()
    means = sums / counts.unsqueeze(1).clamp_min(1e-300)
    return torch.where((counts > 0).unsqueeze(1), means, mean_of_largest)


def _fill_empty_clusters(
    data: KMeansData, centres: Tensor, labels: Tensor, sums: Tensor, counts: Tensor, empty: Tensor
) -> None:
    """Move the data that are furthest from their centres to the empty clusters: changes `sums` and `counts`."""
    distances = torch.empty(data.rows, dtype=torch.float64)
    for rows, z, _ in data.chunks():
        own_centres = centres[labels[rows].long().to(centres.device)].mT
        distances[rows] = (z - own_centres).square().sum(0).cpu()
    furthest, indices = distances.topk(len(empty))
    if float(furthest[0]) == 0:
        return  # There are more clusters than distinct data.
    weights = data.weights()
    for cluster, index in zip(empty.tolist(), indices.tolist(), strict=True):
        z = data.take(np.array([index]))[0]
        weight = 1.0 if weights is None else float(weights[index])
        old_cluster = int(labels[index])
        sums[old_cluster] -= z * weight
        sums[cluster] = z * weight
        counts[old_cluster] -= weight
        counts[cluster] = weight
