"""Densities in the context of a condition c: a prior of z, and what is left of x where part of it is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Independent

from pvae.checks import require_sizes
from pvae.densities.posteriors import DiagonalGaussian
from pvae.errors import InputError
from pvae.networks import MLP

__all__ = ["Completion", "ConditionalGaussian"]


class ConditionalGaussian(nn.Module):
    """The prior p(z given c) = Normal(loc(h), exp(log_scale(h))) with h = MLP(c), learned.

    Args:
        in_features: size of the condition c.
        latent: number of latent dimensions.
        hidden: sizes of the network's hidden layers, one layer of 200 by default; 0, () or None for none.
        activation: a name of `pvae.networks.ACTIVATIONS`.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.

    Raises:
        InputError: for an unknown name, or a size that is not positive.
    Source: Sohn, Lee & Yan, Learning Structured Output Representation using Deep Conditional Generative Models, NeurIPS
    2015, section 4.
    """

    #: the context is the condition
    takes_condition = True

    def __init__(
        self,
        in_features: int,
        latent: int,
        *,
        hidden: int | Sequence[int] | None = (200,),
        activation: str = "tanh",
        initialisation: str = "glorot",
    ) -> None:
        super().__init__()
        self.in_features, self.latent = in_features, latent
        layers = () if hidden is None else require_sizes(hidden, "hidden", zero=True)
        self.network = MLP(in_features, hidden=layers, activation=activation, initialisation=initialisation)
        self.density = DiagonalGaussian(self.network.out_features, latent, initialisation=initialisation)

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return p(z given c) for conditions (..., in_features): batch shape (...), event shape (latent,)."""
        return self.density(self.network(context))


class Completion(dist.TorchDistribution):
    """The entries of x that are missing, beside those that are given: it scores the first, and draws around the second.

    Args:
        density: a density of all of x that is independent in each entry, batch shape (...).
        given: x, shape (batch, *event), of any value at missing entries.
        missing: True at entries that are scored and drawn, in the shape of the event.

    Raises:
        InputError: if the density is not a product over entries.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, density: dist.TorchDistribution, given: Tensor, missing: Tensor) -> None:
        entries, dims = density, 0
        while isinstance(entries, Independent):
            entries, dims = entries.base_dist, dims + entries.reinterpreted_batch_ndims
        if entries.event_shape or dims != missing.dim():
            raise InputError(
                "Quadrants are scored entry by entry, so they need a likelihood that is independent in each; got "
                f"{type(entries).__name__} with events of shape {tuple(density.event_shape)}."
            )
        self.base_dist, self._entries, self.given, self.missing = density, entries, given, missing
        super().__init__(density.batch_shape, density.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        return bool(self.base_dist.has_rsample)

    @property
    def support(self) -> Any:
        return self.base_dist.support

    @property
    def mean(self) -> Tensor:
        return self._around(self.base_dist.mean)

    @property
    def variance(self) -> Tensor:
        return self.base_dist.variance * self.missing

    def expand(self, batch_shape: Any, _instance: Any = None) -> Completion:
        return Completion(self.base_dist.expand(batch_shape), self.given, self.missing)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self._around(self.base_dist.sample(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self._around(self.base_dist.rsample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        scores = self._entries.log_prob(value)
        kept = torch.where(self.missing, scores, torch.zeros_like(scores))
        return kept.flatten(-self.missing.dim()).sum(-1)

    def _around(self, x: Tensor) -> Tensor:
        return torch.where(self.missing, x, self.given)
