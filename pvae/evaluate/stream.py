"""One pass over the log weights in bounded memory: chunks of particles and data, running statistics."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.adapter import pareto_khat, tail_length
from pvae.evaluate.evaluation_context import Setting
from pvae.weights import log_weights

__all__ = ["CHUNK", "Bound", "EffectiveSampleSize", "ParetoKhat", "Statistic", "sweep"]

CHUNK = 10_000
"""Evaluations of the model at once, particles times data. A decoder of 784 outputs holds about five float32
copies of them per evaluation (logits, values, log densities), 16 kB: 160 MB. Take less for a large one."""


class Statistic(ABC):
    """A running summary of the log weights of a few data, in memory that does not grow with the particles."""

    @abstractmethod
    def add(self, log_w: Tensor) -> None:
        """Take in more particles: float64 on the CPU, shape (particles, batch)."""

    @abstractmethod
    def result(self) -> Tensor:
        """Return the summary, shape (batch,)."""


class Bound(Statistic):
    """The importance-weighted bound of groups of `particles`, averaged over all complete groups, in nats.

    One particle gives the ELBO; all of them give the estimate of log p(x).
    Source: Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, arXiv:1509.00519, section 3.
    """

    def __init__(self, particles: int) -> None:
        self.particles = particles
        self.groups = self.filled = 0
        self.total = self.open = torch.zeros(0, dtype=torch.float64)

    def add(self, log_w: Tensor) -> None:
        if self.groups == self.filled == 0:
            self.total = torch.zeros_like(log_w[0])
        while len(log_w):
            whole = 0 if self.filled else len(log_w) // self.particles
            taken = whole * self.particles or min(self.particles - self.filled, len(log_w))
            self._add_whole(log_w[:taken]) if whole else self._add_part(log_w[:taken])
            log_w = log_w[taken:]

    def _add_whole(self, log_w: Tensor) -> None:
        groups = log_w.unflatten(0, (-1, self.particles))
        self._close(groups.logsumexp(1).sum(0), len(groups))

    def _add_part(self, log_w: Tensor) -> None:
        part = log_w.logsumexp(0)
        self.open = torch.logaddexp(self.open, part) if self.filled else part
        self.filled += len(log_w)
        if self.filled == self.particles:
            self.filled = 0
            self._close(self.open, 1)

    def _close(self, log_sums: Tensor, groups: int) -> None:
        self.total = self.total + log_sums
        self.groups += groups

    def result(self) -> Tensor:
        return self.total / self.groups - math.log(self.particles)


class EffectiveSampleSize(Statistic):
    """(sum of w)^2 / sum of w^2, from 1 to the number of particles, which it is where the guide is exact."""

    def __init__(self) -> None:
        self.log_sum = self.log_sum_of_squares = torch.tensor(-math.inf, dtype=torch.float64)

    def add(self, log_w: Tensor) -> None:
        self.log_sum = torch.logaddexp(self.log_sum, log_w.logsumexp(0))
        self.log_sum_of_squares = torch.logaddexp(self.log_sum_of_squares, (2.0 * log_w).logsumexp(0))

    def result(self) -> Tensor:
        return (2.0 * self.log_sum - self.log_sum_of_squares).exp()


class ParetoKhat(Statistic):
    """Shape of the weights' upper tail by Pareto smoothed importance sampling; only the tail is kept.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry, Pareto Smoothed Importance Sampling, JMLR 25 (2024).
    """

    def __init__(self, particles: int) -> None:
        self.particles = particles
        self.kept = tail_length(particles) + 1
        self.tail = torch.zeros(0, dtype=torch.float64)

    def add(self, log_w: Tensor) -> None:
        rows = log_w.T if self.tail.numel() == 0 else torch.cat([self.tail, log_w.T], 1)
        self.tail = rows.topk(min(self.kept, rows.shape[1]), dim=1).values

    def result(self) -> Tensor:
        return torch.from_numpy(pareto_khat(self.tail.numpy(), self.particles))


def _blocks(particles: int, chunk: int) -> list[int]:
    """Split the particles into equal blocks of at most `chunk`."""
    count = -(-particles // chunk)
    return [particles // count + (place < particles % count) for place in range(count)]


def _log_w(setting: Setting, batch: Batch, blocks: Sequence[int], points: bool) -> Iterator[Tensor]:
    for particles in blocks:
        weights = log_weights(setting.model, batch, particles, data_plate=setting.data_plate, fields=setting.fields)
        ratio = weights.log_joint - weights.log_guide if points else weights.log_w
        log_w = ratio.detach().to("cpu", torch.float64)
        if log_w.shape != (particles, batch.size):
            raise InputError(
                f"An evaluation needs a weight for each of {batch.size} data; the programs gave "
                f"{log_w.shape[-1]}. Give the plate over data the size of the batch, without a subsample."
            )
        yield log_w


def sweep(
    setting: Setting,
    particles: int,
    chunk: int,
    statistics: Callable[[], Sequence[Statistic]],
    *,
    points: bool = False,
) -> list[Tensor]:
    """Return each statistic of `particles` log weights of every datum, shape (data,) each.

    The draws follow from the seed of the setting and from `chunk`: another `chunk` draws in another order, so
    gives another estimate of the same quantity.

    Args:
        setting: the model and the data.
        particles: draws per datum.
        chunk: greatest number of (particle, datum) evaluations at once; memory grows with it alone.
        statistics: makes fresh statistics for the next few data.
        points: whether guide sites may be points without a density, whose log p(x, z) is no weight.

    Raises:
        InputError: if `particles` or `chunk` is below 1, or the programs give no weight per datum.
    """
    particles, chunk = require_whole(particles, "particles"), require_whole(chunk, "chunk")
    blocks = _blocks(particles, chunk)
    found: list[list[Tensor]] = []
    for batch in setting.slices(max(1, chunk // blocks[0])):
        running = statistics()
        for log_w in _log_w(setting, batch, blocks, points):
            for statistic in running:
                statistic.add(log_w)
        found.append([statistic.result() for statistic in running])
    return [torch.cat(results) for results in zip(*found, strict=True)]
