"""Passes over the data: statistics for the M-step, log-likelihoods, responsibilities."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.em.base import Mixture, Statistics
from pvae.em.frame import Columns
from pvae.em.missing_values import Marginal
from pvae.em.processes import Processes
from pvae.em.routes import Route, Whitened, make_route

__all__ = ["Passes", "log_likelihoods", "shares"]


class Passes:
    """E-steps over the same data.

    Args:
        columns: the data, in their frame.
        dtype: what the work should be done in; float64 takes its place where float32 is not enough.
        missing: some values are missing, and are integrated out.
        processes: that share the data.
    """

    def __init__(self, columns: Columns, dtype: torch.dtype, missing: bool, processes: Processes) -> None:
        self.columns, self.dtype, self.missing, self.processes = columns, dtype, missing, processes
        self._outer: Tensor | None = None

    def route(self, mixture: Mixture) -> Route:
        """Return the route that a pass under this mixture takes."""
        if self.missing:
            return Marginal(mixture, torch.float64)
        return make_route(mixture, self.columns.frame.spread, self.dtype)

    def statistics(self, route: Route) -> Statistics:
        """Return the sufficient statistics of all data, of all processes, in one pass by a fresh route."""
        for prepared, weights in self.columns.prepared(route):
            route.add(prepared, weights)
        return self.processes.statistics(route.statistics(self._own_outer(route)))

    def _own_outer(self, route: Route) -> Tensor | None:
        """Summed u u' of this process's data, computed once, where the route needs it."""
        if isinstance(route, Whitened | Marginal) or not route.mixture.family.outer:
            return None
        if self._outer is None:
            total = torch.zeros_like(route.mixture.covariances)
            for u, weights in self.columns.chunks(route.chunk, torch.float64):
                total += (u if weights is None else u * weights) @ u.mT
            self._outer = total
        return self._outer

    def worst(self, mixture: Mixture) -> Tensor:
        """Return the datum of the lowest log-likelihood, (features,); missing values at the mean."""
        route = Marginal(mixture, torch.float64) if self.missing else Whitened(mixture, torch.float64)
        lowest, found = float("inf"), torch.zeros_like(mixture.means[0])
        for u, _ in self.columns.chunks(route.chunk, route.dtype):
            values = log_likelihoods(route, route.prepare(u))
            low = int(values.argmin())
            if float(values[low]) < lowest:
                lowest, found = float(values[low]), u[:, low].double().nan_to_num(0.0)
        rows = self.processes.gathered(torch.cat([found.new_tensor([lowest]), found]).unsqueeze(0))
        return rows[int(rows[:, 0].argmin()), 1:]


def log_likelihoods(route: Route, prepared: Tensor) -> Tensor:
    """Return log p(u) of a chunk, (batch,)."""
    values = route.logits(prepared).logsumexp(0)
    correction = route.correction(prepared)
    return values if correction is None else values + correction


def shares(route: Route, prepared: Tensor) -> Tensor:
    """Return responsibilities of a chunk, (components, batch)."""
    return torch.softmax(route.logits(prepared), 0)
