"""Stepwise EM: a mixture that follows a stream of batches, each seen once."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pvae.em.base import Mixture, Statistics
from pvae.em.fitting import Given, fit_rows
from pvae.em.frame import Columns, observed_share
from pvae.em.passes import Passes
from pvae.em.processes import Processes
from pvae.em.row_sources import Rows
from pvae.em.updates import maximised
from pvae.errors import InputError

__all__ = ["Stream"]

#: A step is (t + 2) to this power: above 1/2 it forgets its noise, and near 1/2 its start.
POWER = -0.6
#: Parameters stand still until this many data for each component were seen.
WARM = 10


class Stream:
    """Running statistics of a stream, in the frame of its first batch.

    Args:
        rows: the first batch, which sets frame and start.
        given: what a fit is given beside the data.

    Attributes:
        batches: how many were taken in.
        bounds: mean log-likelihood of each batch under the parameters before it, nats per datum.
        counts: the responsibilities of all data so far, (components,).

    Raises:
        InputError: where components are to be merged or split.
    """

    def __init__(self, rows: Rows, given: Given) -> None:
        if given.settings["merge"] is not None or given.settings["split_merge"]:
            raise InputError(
                "A stream is seen once: partial_fit needs merge=None and split_merge=0; or use fit_batches."
            )
        start = fit_rows(rows, replace(given, settings={**given.settings, "max_iter": 0, "n_init": 1}))
        self.given, self.frame, self.rules = given, start.frame, start.rules
        self.mixture = start.run.mixture
        self.statistics: Statistics | None = None
        self.batches, self.seen = 0, 0.0
        self.bounds: list[float] = []
        self.counts: Tensor = torch.zeros_like(self.mixture.weights)

    def take(self, rows: Rows) -> Mixture:
        """Take in a batch; return the parameters after it, in the units of the data."""
        count = sum(len(x) for x, _ in rows.chunks(1 << 16))
        missing = self.given.settings["missing"] == "marginalise"
        observed = observed_share(rows) if missing else self.frame.observed
        columns = Columns(rows, replace(self.frame, count=count, observed=observed))
        passes = Passes(columns, self.given.dtype, missing, Processes())
        batch = passes.statistics(passes.route(self.mixture))
        weight = float(batch.weight)
        self.bounds.append(float(batch.log_likelihood) / weight - columns.frame.log_scale())
        self.counts = self.counts + batch.counts
        self.statistics = self._mixed(_about_zero(batch.times(1 / weight), self.mixture))
        self.batches, self.seen = self.batches + 1, self.seen + weight
        if self.seen >= WARM * self.mixture.components:
            # As of all data so far: an empty component shows, and a prior counts once.
            whole = self.statistics.times(self.seen)
            self.mixture = maximised(whole, self.mixture, self.rules.regularisation, self.rules.prior).mixture
        return self.frame.outside(self.mixture)

    def _mixed(self, batch: Statistics) -> Statistics:
        if self.statistics is None:
            return batch
        rate = (self.batches + 2) ** POWER
        return self.statistics.times(1 - rate) + batch.times(rate)


def _about_zero(statistics: Statistics, mixture: Mixture) -> Statistics:
    """Return the statistics about the frame's origin, so that those of different parameters can be mixed."""
    about = statistics.about
    second = mixture.family.moved(statistics.second, statistics.first, statistics.counts, -about)
    first = statistics.first + statistics.counts.unsqueeze(1) * about
    return replace(statistics, first=first, second=second, about=torch.zeros_like(about))
