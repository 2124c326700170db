"""Likelihoods p(x given z): densities over the data, in the context of the decoder's features."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.densities.base import Likelihood
from pvae.errors import InputError
from pvae.names import unknown

__all__ = ["Bernoulli", "Gaussian"]

# A pixel that is never on in the training data still gets this probability: its logit has to be finite.
_RAREST = 1e-3
_SMALLEST_SCALE = 1e-3


class Bernoulli(Likelihood):
    """Binary data: p(x given z) = Bernoulli(logits), independent in each entry of x.

    The arguments are those of `pvae.densities.base.Likelihood`.
    """

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return p(x given z) for features of shape (..., in_features), with event shape `data_shape`."""
        return dist.Bernoulli(logits=self.head(context)).to_event(len(self.data_shape))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Set the output bias to the logit of the mean of `x`, shape (batch, ...), in [0.001, 0.999]."""
        self.set_bias(self.head.by_bias(x).mean(0).clamp(_RAREST, 1 - _RAREST).logit())


class Gaussian(Likelihood):
    """Real data: p(x given z) = Normal(loc, scale), independent in each entry of x, one scale for all.

    Args:
        in_features: the decoder's ``out_features``: a number, or (filters, height, width) of feature maps.
        data_shape: shape of one x, which is the distribution's event.
        scale: the standard deviation, or ``"learned"`` for one that is a parameter (its logarithm).
        initialisation: a name of `pvae.networks.INITIALISATIONS`.
    Raises:
        InputError: for an unknown name, a scale that is not positive, or maps that do not fit the data.
    """

    def __init__(
        self,
        in_features: int | Sequence[int],
        data_shape: Sequence[int],
        scale: float | str = "learned",
        *,
        initialisation: str = "glorot",
    ) -> None:
        super().__init__(in_features, data_shape, initialisation=initialisation)
        if isinstance(scale, str) and scale != "learned":
            raise unknown("scale", scale, ["learned", "a positive number"])
        if not isinstance(scale, str) and not 0 < scale < float("inf"):
            raise InputError(f"A Gaussian needs a positive scale, or scale='learned'; got scale={scale}.")
        self.scale = scale
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return p(x given z) for features of shape (..., in_features), with event shape `data_shape`."""
        loc = self.head(context)
        # Written afresh in loc's own dtype: a float32 buffer of 0.1 would be wrong in float64.
        scale = self.log_scale.exp() if self.scale == "learned" else loc.new_full((), self.scale)
        return dist.Normal(loc, scale).to_event(len(self.data_shape))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Set the output bias to the mean of `x`, shape (batch, ...), a learned scale to what that leaves."""
        columns = self.head.by_bias(x)
        self.set_bias(columns.mean(0))
        if self.scale == "learned":
            residual = (columns - columns.mean(0)).square().mean().sqrt()
            self.log_scale.copy_(residual.clamp_min(_SMALLEST_SCALE).log())
