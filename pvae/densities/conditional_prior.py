"""A prior p(z given c) with parameters from a network of the condition c."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor, nn

from pvae.checks import require_sizes
from pvae.densities.posteriors import DiagonalGaussian
from pvae.networks import MLP

__all__ = ["ConditionalGaussian"]


class ConditionalGaussian(nn.Module):
    """The learned prior p(z given c) = Normal(loc(h), exp(log_scale(h))) with h = MLP(c).

    Args:
        in_features: size of the condition c.
        latent: number of latent dimensions.
        hidden: sizes of the hidden layers of the network, one layer of 200 by default; 0, () or None for no hidden
            layer.
        activation: a name of `pvae.networks.ACTIVATIONS`.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.

    Raises:
        InputError: for an unknown name, or a size that is not positive.
    Source: Sohn, Lee & Yan, Learning Structured Output Representation using Deep Conditional Generative Models, NeurIPS
    2015, section 4.
    """

    #: the context of `forward` is the condition
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
