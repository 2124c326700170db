"""The distribution of one time step of padded sequences, some of which have ended before."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from pvae.data.support import value_inside

__all__ = ["PaddedStep"]


class _WherePresent(Constraint):
    """A support for the sequences that have not ended; any value is accepted for the other sequences.

    Args:
        base: the support of one time step.
        present: True for the sequences that have not ended, shape (batch,).
    """

    def __init__(self, base: Any, present: Tensor) -> None:
        self.base, self.present = base, present
        self.is_discrete, self.event_dim = base.is_discrete, base.event_dim
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return whether the values are accepted, in the shape of a check by the support of one time step."""
        inside = self.base.check(value)
        return inside | ~self.present.reshape(self.present.shape + (1,) * (inside.dim() - self.present.dim()))

    def __str__(self) -> str:
        return str(self.base)


class PaddedStep(dist.TorchDistribution):
    """The density of the data at one time step, if some sequences of the batch have ended.

    The log-density of a sequence that has ended is 0, and its data are never read. Its draws and its mean are 0.

    Args:
        density: the density of the time step, batch shape (..., batch).
        present: True for the sequences that have not ended, shape (batch,).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, density: dist.TorchDistribution, present: Tensor) -> None:
        self.base_dist, self.present = density, present
        super().__init__(density.batch_shape, density.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws are reparameterised, like draws of the density."""
        return bool(self.base_dist.has_rsample)

    @property
    def support(self) -> Any:
        """The support of the density, for the sequences that have not ended."""
        return _WherePresent(self.base_dist.support, self.present)

    @property
    def mean(self) -> Tensor:
        """The mean, and 0 for sequences that have ended, shape (..., batch, *event)."""
        return self._zero_ended(self.base_dist.mean)

    @property
    def variance(self) -> Tensor:
        """The variance, and 0 for sequences that have ended, shape (..., batch, *event)."""
        return self._zero_ended(self.base_dist.variance)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PaddedStep:
        """Return the distribution with another batch shape, to which its own broadcasts."""
        return PaddedStep(self.base_dist.expand(batch_shape), self.present)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return draws without gradient, shape sample_shape + (..., batch, *event)."""
        return self._zero_ended(self.base_dist.sample(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return reparameterised draws, shape sample_shape + (..., batch, *event)."""
        return self._zero_ended(self.base_dist.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of each sequence, 0 for sequences that have ended, shape (..., batch), in nats."""
        present = self.present.reshape(self.present.shape + (1,) * len(self.event_shape))
        # gradients at a value outside the support would not be finite, although the result leaves them out
        scores = self.base_dist.log_prob(torch.where(present, value, value_inside(self.base_dist)))
        return torch.where(self.present, scores, torch.zeros_like(scores))

    def _zero_ended(self, x: Tensor) -> Tensor:
        """Return values, (..., batch, *event), with 0 for the sequences that have ended. A product would keep NaN."""
        present = self.present.reshape(self.present.shape + (1,) * len(self.event_shape))
        return torch.where(present, x, torch.zeros_like(x))
