"""k-means in chunks: k-means++ and Lloyd's iterations, in scikit-learn's order of random draws.

No matrix of data by clusters is ever stored: beside the data, k-means++ keeps two numbers for each datum and
Lloyd one label. From the same random state they find what scikit-learn finds, up to ties.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pvae.em.frame import Columns

__all__ = ["Points", "kmeans", "plus_plus"]

CHUNK = 4096


class Points:
    """Data in a frame, with each feature stretched by a factor: the space in which k-means measures distance.

    Args:
        columns: the data; missing values stand at the mean.
        stretch: (features,).
    """

    def __init__(self, columns: Columns, stretch: Tensor) -> None:
        self.columns, self.stretch = columns, stretch
        self.count = columns.frame.count
        self.features = columns.rows.features
        self.device = columns.rows.device

    def chunks(self) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Yield which data, their coordinates (features, batch), and weights or None."""
        start = 0
        for u, weights in self.columns.chunks(CHUNK, torch.float64):
            end = start + u.shape[1]
            yield slice(start, end), (u * self.stretch.unsqueeze(1)).nan_to_num_(0.0), weights
            start = end

    def take(self, indices: np.ndarray) -> Tensor:
        """Return the coordinates of data by number, in any order, (indices, features)."""
        order = np.argsort(indices, kind="stable")
        rows = self.columns.rows.take(indices[order]).double()
        frame = self.columns.frame
        found = ((rows - frame.shift) / frame.scale * self.stretch).nan_to_num(0.0)
        return found[torch.as_tensor(np.argsort(order), device=self.device)]

    def weights(self) -> np.ndarray | None:
        """Return all sample weights, (data,), or None."""
        parts = [weights for _, _, weights in self.chunks() if weights is not None]
        return torch.cat(parts).cpu().numpy() if parts else None


def _nearest(z: Tensor, centres: Tensor) -> Tensor:
    """Return squared distances, (centres, batch). Taken by difference: a duplicate is at distance 0, exactly."""
    return (z - centres.unsqueeze(2)).square().sum(1)


def plus_plus(points: Points, clusters: int, random: np.random.RandomState) -> np.ndarray:
    """Return the numbers of data to start from, (clusters,): far from each other, best of a few tries each.

    Source: Arthur & Vassilvitskii, k-means++: the advantages of careful seeding, 2007.
    """
    trials = 2 + int(math.log(clusters))
    weights = points.weights()
    chosen = np.empty(clusters, dtype=np.int64)
    chosen[0] = _draw(points.count, weights, random)
    closest = np.empty(points.count)
    potential = _update(points, points.take(chosen[:1]), closest, fresh=True)
    for c in range(1, clusters):
        tries = random.uniform(size=trials) * potential
        cumulated = np.cumsum(closest if weights is None else closest * weights)
        candidates = np.searchsorted(cumulated, tries).clip(None, points.count - 1)
        del cumulated
        places = points.take(candidates)
        best = int(np.argmin(_potentials(points, places, closest)))
        chosen[c] = candidates[best]
        potential = _update(points, places[best : best + 1], closest, fresh=False)
    return chosen


def _draw(count: int, weights: np.ndarray | None, random: np.random.RandomState) -> int:
    if weights is None:
        # What random.choice(count, p=uniform) draws, without its tables.
        return min(int(random.random_sample() * count), count - 1)
    return int(random.choice(count, p=weights / weights.sum()))


def _potentials(points: Points, places: Tensor, closest: np.ndarray) -> np.ndarray:
    totals = torch.zeros(len(places), dtype=torch.float64, device=points.device)
    for rows, z, weights in points.chunks():
        now = torch.as_tensor(closest[rows], device=z.device)
        distances = _nearest(z, places).minimum(now)
        totals += distances.sum(1) if weights is None else distances @ weights
    return totals.cpu().numpy()


def _update(points: Points, place: Tensor, closest: np.ndarray, *, fresh: bool) -> float:
    potential = 0.0
    for rows, z, weights in points.chunks():
        distances = _nearest(z, place)[0]
        if not fresh:
            distances = distances.minimum(torch.as_tensor(closest[rows], device=z.device))
        closest[rows] = distances.cpu().numpy()
        potential += float(distances.sum() if weights is None else distances @ weights)
    return potential


def kmeans(
    points: Points, clusters: int, random: np.random.RandomState, *, iterations: int = 300, tol: float = 1e-4
) -> tuple[Tensor, Tensor]:
    """Return centres, (clusters, features), and the label of each datum, (data,), int16 or int32, on the CPU.

    Stops where no label changes, or the centres move by less than `tol` of the mean variance.
    Source: Lloyd, Least squares quantization in PCM, IEEE Trans. Inf. Theory 28, 1982.
    """
    centres = points.take(plus_plus(points, clusters, random))
    kind = torch.int16 if clusters < 1 << 15 else torch.int32
    labels = torch.full((points.count,), -1, dtype=kind)
    frame = points.columns.frame
    small = tol * float((frame.spread * points.stretch.square()).mean())
    for _ in range(iterations):
        sums, counts, changed = _assign(points, centres, labels)
        moved = _centres(points, centres, labels, sums, counts)
        shift = float((moved - centres).square().sum())
        centres = moved
        if not changed:
            return centres, labels
        if shift <= small:
            break
    _assign(points, centres, labels)
    return centres, labels


def _assign(points: Points, centres: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Label all data in place; return the sums and weights of each cluster, and whether a label changed."""
    sums, counts = torch.zeros_like(centres), centres.new_zeros(len(centres))
    halves = 0.5 * centres.square().sum(1, keepdim=True)
    changed = False
    for rows, z, weights in points.chunks():
        _, now = torch.addmm(halves, centres, z, alpha=-1).min(0)
        ones = z.new_ones(z.shape[1]) if weights is None else weights
        counts.index_add_(0, now, ones)
        sums.index_add_(0, now, (z if weights is None else z * weights).mT)
        now = now.to(labels.dtype).cpu()
        changed = changed or not torch.equal(now, labels[rows])
        labels[rows] = now
    return sums, counts, changed


def _centres(points: Points, old: Tensor, labels: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """Return the means of the clusters; an empty one moves to the datum that is furthest from its centre."""
    empty = (counts == 0).nonzero().flatten()
    if len(empty):
        _relocate(points, old, labels, sums, counts, empty)
    biggest = sums[counts.argmax()] / counts.max()
    return torch.where((counts > 0).unsqueeze(1), sums / counts.unsqueeze(1).clamp_min(1e-300), biggest)


def _relocate(points: Points, old: Tensor, labels: Tensor, sums: Tensor, counts: Tensor, empty: Tensor) -> None:
    distances = torch.empty(points.count, dtype=torch.float64)
    for rows, z, _ in points.chunks():
        own = old[labels[rows].long().to(old.device)].mT
        distances[rows] = (z - own).square().sum(0).cpu()
    furthest, numbers = distances.topk(len(empty))
    if float(furthest[0]) == 0:
        return  # more clusters than distinct data
    weights = points.weights()
    for cluster, number in zip(empty.tolist(), numbers.tolist(), strict=True):
        place = points.take(np.array([number]))[0]
        weight = 1.0 if weights is None else float(weights[number])
        before = int(labels[number])
        sums[before] -= place * weight
        sums[cluster] = place * weight
        counts[before] -= weight
        counts[cluster] = weight
