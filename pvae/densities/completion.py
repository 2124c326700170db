"""The distribution of the missing entries of x, given the other entries."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent

from pvae.errors import InputError

__all__ = ["Completion"]


class Completion(dist.TorchDistribution):
    """The distribution of the missing entries of x, for given values of the other entries.

    It scores only the missing entries. A draw has drawn values at missing entries and the given values at the other
    entries.

    Args:
        density: a density of all of x that is independent in each entry, batch shape (...).
        given: the values of x, shape (batch, *event); values at missing entries are not used.
        missing: True at missing entries, in the shape of the event.

    Raises:
        InputError: if the density is not independent in each entry.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, density: dist.TorchDistribution, given: Tensor, missing: Tensor) -> None:
        entries, dims = density, 0
        while isinstance(entries, Independent):
            entries, dims = entries.base_dist, dims + entries.reinterpreted_batch_ndims
        if entries.event_shape or dims != missing.dim():
            raise InputError(
                "Quadrants are scored entry by entry, so they need a likelihood that is independent in each entry; got "
                f"{type(entries).__name__} with events of shape {tuple(density.event_shape)}. Use a likelihood such as "
                "'bernoulli' or 'gaussian'."
            )
        self.base_dist, self._entries, self.given, self.missing = density, entries, given, missing
        super().__init__(density.batch_shape, density.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws are reparameterised, like draws of the density."""
        return bool(self.base_dist.has_rsample)

    @property
    def support(self) -> Any:
        """The support of the density."""
        return self.base_dist.support

    @property
    def mean(self) -> Tensor:
        """The mean at missing entries, and the given values at the other entries, shape (..., *event)."""
        return self._with_given(self.base_dist.mean)

    @property
    def variance(self) -> Tensor:
        """The variance at missing entries, and 0 at the other entries, shape (..., *event)."""
        return self.base_dist.variance * self.missing

    def expand(self, batch_shape: Any, _instance: Any = None) -> Completion:
        """Return the distribution with another batch shape, to which its own broadcasts."""
        return Completion(self.base_dist.expand(batch_shape), self.given, self.missing)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return draws without gradient, shape sample_shape + (..., *event)."""
        return self._with_given(self.base_dist.sample(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Return reparameterised draws, shape sample_shape + (..., *event)."""
        return self._with_given(self.base_dist.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of the missing entries of `value`, shape (...), in nats."""
        scores = self._entries.log_prob(value)
        missing_scores = torch.where(self.missing, scores, torch.zeros_like(scores))
        return missing_scores.flatten(-self.missing.dim()).sum(-1)

    def _with_given(self, x: Tensor) -> Tensor:
        return torch.where(self.missing, x, self.given)
