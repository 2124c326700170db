"""Statistics of the log weights in bounded memory: running summaries of chunks of particles and data."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.arviz_versions import pareto_khat, tail_length
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.evaluate.fitting_chunk import run_with_fitting_chunk
from pvae.products import ProductChoices, default_products
from pvae.products.libraries import ATEN
from pvae.train.traced_weights.weight_runs import WeightRuns

__all__ = ["CHUNK", "Bound", "EffectiveSampleSize", "Elbo", "ParetoKhat", "Statistic", "summarise_weights"]

CHUNK = 10_000
"""The largest number of evaluations of the model at once, particles times data. A decoder of 784 outputs holds about
five float32 copies of them per evaluation (logits, values, log densities), 16 kB: 160 MB for all. Use a smaller number
for a large decoder."""


class Statistic(ABC):
    """A running summary of the log weights of some data; its memory does not grow with the number of particles.

    Attributes:
        of_elbo_terms: whether it summarises the terms of the ELBO in place of the log weights.
    """

    of_elbo_terms = False

    @abstractmethod
    def add(self, log_w: Tensor) -> None:
        """Add the log weights of more particles.

        Args:
            log_w: log weights in nats, float64 on the CPU, shape (particles, batch).
        """

    @abstractmethod
    def result(self) -> Tensor:
        """Return the summary of all particles so far, shape (batch,)."""


class Bound(Statistic):
    """The importance-weighted bound of groups of `particles`, averaged over all complete groups, in nats.

    Groups of one particle give the mean log weight, which is the ELBO if no guide site is summed out of the weights.
    One group of all particles gives the estimate of log p(x).
    Source: Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, arXiv:1509.00519, section 3.

    Args:
        particles: the size of a group.
    """

    def __init__(self, particles: int) -> None:
        self.particles = particles
        self.complete_groups = 0
        self.open_particles = 0
        self.sum_over_groups = torch.zeros(0, dtype=torch.float64)
        self.open_log_sum = torch.zeros(0, dtype=torch.float64)

    def add(self, log_w: Tensor) -> None:
        """Add the log weights of more particles, shape (particles, batch)."""
        if self.complete_groups == self.open_particles == 0:
            self.sum_over_groups = torch.zeros_like(log_w[0])
        while len(log_w):
            groups = 0 if self.open_particles else len(log_w) // self.particles
            if groups:
                count = groups * self.particles
                self._add_groups(log_w[:count])
            else:
                count = min(self.particles - self.open_particles, len(log_w))
                self._add_to_open_group(log_w[:count])
            log_w = log_w[count:]

    def _add_groups(self, log_w: Tensor) -> None:
        """Add complete groups, shape (groups * particles, batch)."""
        groups = log_w.unflatten(0, (-1, self.particles))
        self._add_log_sums(groups.logsumexp(1).sum(0), len(groups))

    def _add_to_open_group(self, log_w: Tensor) -> None:
        """Add particles, shape (particles, batch), to the group that is not complete yet."""
        log_sum = log_w.logsumexp(0)
        self.open_log_sum = torch.logaddexp(self.open_log_sum, log_sum) if self.open_particles else log_sum
        self.open_particles += len(log_w)
        if self.open_particles == self.particles:
            self.open_particles = 0
            self._add_log_sums(self.open_log_sum, 1)

    def _add_log_sums(self, log_sums: Tensor, groups: int) -> None:
        """Add the log-sum-exp of complete groups, already summed over these groups, shape (batch,)."""
        self.sum_over_groups = self.sum_over_groups + log_sums
        self.complete_groups += groups

    def result(self) -> Tensor:
        """Return the bound of each datum, shape (batch,), nats; an incomplete group is left out."""
        return self.sum_over_groups / self.complete_groups - math.log(self.particles)


class Elbo(Bound):
    """The ELBO: the mean of its terms, in nats. Guide sites that are summed out of the weights are in these terms."""

    of_elbo_terms = True

    def __init__(self) -> None:
        super().__init__(1)


class EffectiveSampleSize(Statistic):
    """(sum of w)^2 / sum of w^2, from 1 to the number of particles.

    It is the number of particles if the guide is exact.
    """

    def __init__(self) -> None:
        self.log_sum = self.log_sum_of_squares = torch.tensor(-math.inf, dtype=torch.float64)

    def add(self, log_w: Tensor) -> None:
        """Add the log weights of more particles, shape (particles, batch)."""
        self.log_sum = torch.logaddexp(self.log_sum, log_w.logsumexp(0))
        self.log_sum_of_squares = torch.logaddexp(self.log_sum_of_squares, (2.0 * log_w).logsumexp(0))

    def result(self) -> Tensor:
        """Return the effective sample size of each datum, shape (batch,), in particles."""
        return (2.0 * self.log_sum - self.log_sum_of_squares).exp()


class ParetoKhat(Statistic):
    """The shape of the weights' upper tail by Pareto smoothed importance sampling; only the tail is kept.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry, Pareto Smoothed Importance Sampling, JMLR 25 (2024).

    Args:
        particles: the total number of particles that will be added.
    """

    def __init__(self, particles: int) -> None:
        self.particles = particles
        self.tail_size = tail_length(particles) + 1
        self.tail = torch.zeros(0, dtype=torch.float64)

    def add(self, log_w: Tensor) -> None:
        """Add the log weights of more particles, shape (particles, batch)."""
        rows = log_w.T if self.tail.numel() == 0 else torch.cat([self.tail, log_w.T], 1)
        self.tail = rows.topk(min(self.tail_size, rows.shape[1]), dim=1).values

    def result(self) -> Tensor:
        """Return Pareto k-hat of each datum, shape (batch,)."""
        return torch.from_numpy(pareto_khat(self.tail.numpy(), self.particles))


def _chunk_sizes(particles: int, chunk: int) -> list[int]:
    """Split the particles into chunks of at most `chunk`, as equal as possible."""
    count = -(-particles // chunk)
    return [particles // count + (index < particles % count) for index in range(count)]


def _weight_chunks(
    context: EvaluationContext, runs: WeightRuns, batch: Batch, sizes: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the log weights and the terms of the ELBO of each chunk of particles, as `WeightRuns` returns them."""
    for particles in sizes:
        log_w, terms = runs(batch, particles)
        if log_w.shape != (particles, batch.size):
            raise _wrong_number(context, batch, log_w.shape[-1])
        yield log_w, terms


def _wrong_number(context: EvaluationContext, batch: Batch, count: int) -> InputError:
    """Return the error for programs with a number of weights that is not the number of data."""
    layout = context.bound_to(batch).layout
    if layout.shared(batch.size):
        return InputError(layout.describe_missing_weights(batch.size))
    return InputError(
        f"An evaluation needs a weight for each of {batch.size} data; the programs gave {count}. Give the plate over "
        "data the size of the batch, without a subsample."
    )


def summarise_weights(
    context: EvaluationContext,
    particles: int,
    chunk: int,
    make_statistics: Callable[[], Sequence[Statistic]],
    *,
    allow_point_masses: bool = False,
) -> list[Tensor]:
    """Return each statistic of `particles` log weights of every datum, shape (data,) each.

    The draws depend on the seed of the context and on `chunk`. With another `chunk` the order of the draws changes, so
    the result is another estimate of the same quantity.

    Args:
        context: the model and the data.
        particles: the number of draws of z per datum.
        chunk: the largest number of (particle, datum) evaluations at once; the memory grows only with it.
        make_statistics: returns new statistics for the next chunk of data.
        allow_point_masses: whether guide sites may be point masses without a density; their log p(x, z) is not a
            weight.

    Raises:
        InputError: if `particles` or `chunk` is below 1, the programs give no weight per datum, or one particle of the
            smallest part of the data needs more memory than is free.
    """
    particles, chunk = require_whole(particles, "particles"), require_whole(chunk, "chunk")
    with_elbo = any(statistic.of_elbo_terms for statistic in make_statistics())
    runs = WeightRuns(
        context.model,
        context.programs,
        default_products() if context.matmul != ATEN else ProductChoices(ATEN),
        data_plate=context.data_plate,
        allow_point_masses=allow_point_masses,
        with_elbo=with_elbo,
    )

    def summaries(batch: Batch, sizes: Sequence[int]) -> list[Tensor]:
        statistics = make_statistics()
        for log_w, terms in _weight_chunks(context, runs, batch, sizes):
            for statistic in statistics:
                statistic.add(terms if statistic.of_elbo_terms else log_w)
        return [statistic.result() for statistic in statistics]

    def first_summaries(chunk: int) -> list[Tensor]:
        data_at_once, sizes = _split_evaluations(context, particles, chunk)
        return summaries(next(context.chunks(data_at_once)), sizes)

    first = run_with_fitting_chunk(first_summaries, context, particles, chunk)
    data_at_once, sizes = _split_evaluations(context, particles, first.size)
    runs.expect(float(particles) * (context.batch.size - data_at_once))
    later = itertools.islice(context.chunks(data_at_once), 1, None)
    results = [first.result, *[summaries(batch, sizes) for batch in later]]
    return [torch.cat(chunks) for chunks in zip(*results, strict=True)]


def _split_evaluations(context: EvaluationContext, particles: int, chunk: int) -> tuple[int, list[int]]:
    """Return the number of data of one run, and the numbers of particles of the runs on these data."""
    sizes = _chunk_sizes(particles, chunk)
    data_at_once = context.data_at_once(max(1, chunk // sizes[0]))
    if data_at_once > max(1, chunk // sizes[0]):  # all data, with fewer particles at a time
        sizes = _chunk_sizes(particles, max(1, chunk // data_at_once))
    return data_at_once, sizes
