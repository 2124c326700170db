"""The thermodynamic variational objective: a Riemann sum over inverse temperatures from the guide to the posterior."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import is_whole, require_number, require_whole
from pvae.errors import InputError
from pvae.objectives.bounds.score_only import ScoreOnlyObjective
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsOptions
from pvae.weights import LogWeights

__all__ = ["Thermodynamic", "log_uniform"]


def log_uniform(steps: int, smallest: float = 0.025) -> tuple[float, ...]:
    """Return 0, then inverse temperatures from `smallest` to 1 with equally spaced logarithms.

    Args:
        steps: the number of inverse temperatures after 0.
        smallest: the first of them.
    """
    steps = require_whole(steps, "steps")
    if steps == 1:
        return (0.0, 1.0)
    ratio = math.log(smallest) / (steps - 1)
    return (0.0, *(math.exp(ratio * (steps - 1 - step)) for step in range(steps)))


@named("tvo", "thermodynamic objective: a Riemann sum from the guide to the posterior; for any guide; biased")
class Thermodynamic(ScoreOnlyObjective):
    """The thermodynamic variational objective (TVO), per datum.

    log p(x) is the integral over b from 0 to 1 of E_b[log w], where E_b is the mean under q^(1-b) p^b, normalised. The
    integrand increases with b, so the left Riemann sum is a lower bound and the right one is an upper bound. With a
    partition of one step the left sum is the ELBO. The means are self-normalised over the particles. The gradient of
    the sum uses the covariance formula, which needs no reparameterisation.

    Args:
        particles: draws of z per datum, at least 2.
        partition: the number of steps (log-uniform, as in the paper), or all points from 0 to 1 in increasing order.
        smallest: the first point after 0 of a log-uniform partition.
        side: ``"left"`` (lower bound) or ``"right"`` (upper bound).
        options: see `WeightsOptions`.

    Raises:
        InputError: if ``particles < 2``, the partition does not increase from 0 to 1, or the side is unknown.

    Source: Masrani, Le & Wood, The Thermodynamic Variational Objective, arXiv:1907.00031, sections 3 and 4.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> bounds = []
        >>> for side in ("left", "right"):
        ...     _ = torch.manual_seed(0)  # the same draws for both bounds
        ...     bounds.append(-pvae.Thermodynamic(particles=50, side=side).loss(model.model, model.guide, x))
        >>> bounds[0] < bounds[1]
        True
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
            partition: dict[str, Any] = {"partition": len(self.partition) - 1, "smallest": self.smallest}
        else:
            partition = {"partition": ",".join(f"{point:g}" for point in self.partition)}
        return {**partition, "side": self.side, **super().settings()}

    def _temper(self, weights: LogWeights) -> tuple[Tensor, Tensor, Tensor]:
        """Return the points b, the widths of the steps, and the normalised w^b, without gradient.

        Returns:
            Shapes (points,), (points,) and (points, particles, batch).
        """
        log_w = weights.log_w.detach()
        points = self.points.to(log_w)
        used = points[:-1] if self.side == "left" else points[1:]
        return used, points.diff(), (used[:, None, None] * log_w).softmax(1)

    def bound(self, weights: LogWeights) -> Tensor:
        """Return the Riemann sum, shape (batch,), in nats."""
        _, widths, share = self._temper(weights)
        return widths @ (share * weights.log_w.detach()).sum(1)

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return a number per datum with the gradient of the Riemann sum, shape (batch,).

        The gradient is E_b[grad log w] + Cov_b(log w, grad log(q^(1-b) p^b)). The factor of the covariance makes it
        unbiased at b = 0. The mean score at b = 0 is left out, because its expectation is 0.
        """
        points, widths, share = self._temper(weights)
        b = points[:, None, None]
        log_w = weights.log_w.detach()
        integrand = weights.log_joint - (b > 0.0) * weights.log_guide
        centred = log_w - (share * log_w).sum(1, keepdim=True)
        log_path = weights.log_guide + b * weights.log_w
        correction = weights.particles / (weights.particles - 1)
        return widths @ (share * (integrand + correction * centred * log_path)).sum(1)


def _points(partition: Any, smallest: float) -> tuple[float, ...]:
    """Return the points of a partition of [0, 1], from its number of steps or from the points themselves."""
    if is_whole(partition):
        steps = require_whole(partition, "partition", advice="It is the number of steps.")
        return log_uniform(steps, require_number(smallest, "smallest", above=0, below=1))
    points = tuple(float(point) for point in partition) if isinstance(partition, Sequence) else ()
    is_increasing = all(low < high for low, high in itertools.pairwise(points))
    if len(points) < 2 or points[0] != 0 or points[-1] != 1 or not is_increasing:
        raise InputError(
            f"A partition needs to be a number of steps, or points that increase from 0 to 1; got {partition!r}."
        )
    return points
