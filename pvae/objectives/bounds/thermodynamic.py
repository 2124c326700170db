"""The thermodynamic variational objective: a Riemann sum along the path from the guide to the posterior."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import is_whole, require_number, require_whole
from pvae.errors import InputError
from pvae.objectives.bounds.at_fixed_draws import AtFixedDraws
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsOptions
from pvae.weights import LogWeights

__all__ = ["Thermodynamic", "log_uniform"]


def log_uniform(steps: int, smallest: float = 0.025) -> tuple[float, ...]:
    """Return 0, then `steps` inverse temperatures from `smallest` to 1, equally spaced in their logarithm."""
    steps = require_whole(steps, "steps")
    if steps == 1:
        return (0.0, 1.0)
    ratio = math.log(smallest) / (steps - 1)
    return (0.0, *(math.exp(ratio * (steps - 1 - step)) for step in range(steps)))


@named("tvo", "thermodynamic objective: a Riemann sum from the guide to the posterior; any guide")
class Thermodynamic(AtFixedDraws):
    """The thermodynamic variational objective (TVO), per datum.

    log p(x) is the integral over b from 0 to 1 of E_b[log w], where E_b is the mean under q^(1-b) p^b, normalised; it
    rises with b. The left Riemann sum is a lower bound, the right one an upper bound, and a partition of one step makes
    the left one the ELBO. The means are self-normalised over the particles; the gradient is that of the sum by the
    covariance formula, which needs no reparameterisation.

    Args:
        particles: draws of z per datum, at least 2.
        partition: the number of steps (log-uniform, as in the paper), or all points from 0 to 1, rising.
        smallest: the first point after 0 of a log-uniform partition.
        side: ``"left"`` (lower bound) or ``"right"`` (upper bound).
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 2``, the partition does not rise from 0 to 1, or the side is unknown.
    Source: Masrani, Le & Wood, The Thermodynamic Variational Objective, arXiv:1907.00031, sections 3 and 4.
    """

    biased = "self-normalised over the particles"
    points: Tensor

    def __init__(
        self,
        particles: int = 10,
        partition: int | Sequence[float] = 2,
        smallest: float = 0.025,
        side: str = "left",
        **options: Unpack[WeightsOptions],
    ) -> None:
        super().__init__(require_whole(particles, "particles", least=2), **options)
        if side not in ("left", "right"):
            raise InputError(f"side must be 'left' (a lower bound) or 'right' (an upper bound); got {side!r}.")
        self.side = side
        points = _points(partition, smallest)
        self.by_steps = is_whole(partition)
        self.smallest = smallest
        self.register_buffer("points", torch.tensor(points, dtype=torch.float64), persistent=False)
        self.partition = points

    def settings(self) -> dict[str, Any]:
        """Return the number of particles, the partition and the side."""
        if self.by_steps:
            shape: dict[str, Any] = {"partition": len(self.partition) - 1, "smallest": self.smallest}
        else:
            shape = {"partition": ",".join(f"{each:g}" for each in self.partition)}
        return {**shape, "side": self.side, **super().settings()}

    def _tempered(self, weights: LogWeights) -> tuple[Tensor, Tensor, Tensor]:
        """Points b, widths of the steps, and normalised w^b, shape (points, particles, batch), without gradient."""
        log_w = weights.log_w.detach()
        points = self.points.to(log_w)
        used = points[:-1] if self.side == "left" else points[1:]
        return used, points.diff(), (used[:, None, None] * log_w).softmax(1)

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the Riemann sum, shape (batch,), in nats."""
        _, widths, share = self._tempered(weights)
        return widths @ (share * weights.log_w.detach()).sum(1)

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return what has the gradient of the sum: E_b[grad log w] + Cov_b(log w, grad log(q^(1-b) p^b)).

        At b = 0 the covariance's factor makes it unbiased, and the mean score, which is 0, is left out.
        """
        points, widths, share = self._tempered(weights)
        b, log_w = points[:, None, None], weights.log_w.detach()
        inside = weights.log_joint - (b > 0.0) * weights.log_guide
        apart = log_w - (share * log_w).sum(1, keepdim=True)
        path = weights.log_guide + b * weights.log_w
        unbiased = weights.particles / (weights.particles - 1)
        return widths @ (share * (inside + unbiased * apart * path)).sum(1)


def _points(partition: Any, smallest: float) -> tuple[float, ...]:
    if is_whole(partition):
        steps = require_whole(partition, "partition", advice="It is the number of steps.")
        return log_uniform(steps, require_number(smallest, "smallest", above=0, below=1))
    points = tuple(float(each) for each in partition) if isinstance(partition, Sequence) else ()
    rises = all(low < high for low, high in itertools.pairwise(points))
    if len(points) < 2 or points[0] != 0 or points[-1] != 1 or not rises:
        raise InputError(f"A partition is a number of steps, or points that rise from 0 to 1; got {partition!r}.")
    return points
