"""Grey levels: logistic distributions rounded to a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pvae.checks import require_whole
from pvae.densities import distributions
from pvae.densities.base import Likelihood

__all__ = ["DiscretisedLogistic"]

_SMALLEST_SCALE = 0.05  # in steps of the grid: a level then takes up to 0.9999 of the mass
_PER_DEVIATION = math.sqrt(3) / math.pi  # a logistic distribution's scale, as a part of its standard deviation


class DiscretisedLogistic(Likelihood):
    """Grey levels k / (levels - 1): logistic distributions, rounded, or a mixture of them, in each entry of x.

    The masses of all levels sum to 1, the ends of the grid taking all that lies beyond, so that an evidence is a
    probability and never positive. Scales are ``smallest + exp(raw)``, with `smallest` 0.05 steps of the grid.

    Args:
        in_features: the decoder's ``out_features``: a number, or (filters, height, width) of feature maps.
        data_shape: shape of one x, which is the distribution's event.
        levels: number of grey levels in the data: 256 for pictures of 8 bits, 17 for the digits.
        components: number of logistic distributions in each entry; weights are made by the decoder too.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.

    Raises:
        InputError: for an unknown name, fewer than 2 levels, no component, or maps that do not fit the data.
    Source: Kingma et al., Inverse Autoregressive Flow, arXiv:1606.04934, appendix C; Salimans et al., PixelCNN++,
    arXiv:1701.05517, section 2.1. Channels are independent here.
    """

    def __init__(
        self,
        in_features: int | Sequence[int],
        data_shape: Sequence[int],
        levels: int = 256,
        components: int = 1,
        *,
        initialisation: str = "glorot",
    ) -> None:
        components = require_whole(components, "components")
        numbers = 3 * components if components != 1 else 2
        super().__init__(in_features, data_shape, initialisation=initialisation, numbers=numbers)
        self.levels, self.components = require_whole(levels, "levels", least=2), components

    @property
    def smallest(self) -> float:
        """The lower bound of the scales, in units of x."""
        return _SMALLEST_SCALE / (self.levels - 1)

    def forward(self, context: Tensor) -> TorchDistribution:
        """Return p(x given z) for features of shape (..., in_features), with event shape `data_shape`."""
        numbers = self.head(context).movedim(-1 - len(self.data_shape), -1)
        loc, raw, *logits = numbers.split(self.components, -1)
        density = distributions.DiscretisedLogistic(
            loc, self.smallest + raw.exp(), logits[0] if logits else None, levels=self.levels
        )
        return density.to_event(len(self.data_shape))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Set the output bias so that mean and variance before rounding are those of `x`, shape (batch, ...).

        The maximum of the likelihood has no closed form; this start is near it where levels at the ends are rare.
        Components lie side by side, with equal weights.

        Raises:
            InputError: if a value is not on the grid.
        """
        self.check(x)
        columns = self.head.by_bias(x)
        scale = _PER_DEVIATION * columns.std(0, correction=0)
        places = (torch.arange(self.components, dtype=x.dtype, device=x.device) + 0.5) / self.components
        loc = columns.mean(0) + places.logit().unsqueeze(-1) * scale
        spread = _PER_DEVIATION * loc.std(0, correction=0)
        raw = ((scale.square() - spread.square()).sqrt() - self.smallest).clamp_min(self.smallest).log()
        parts = [loc, raw.expand_as(loc)] + [torch.zeros_like(loc)] * (self.components > 1)
        self.set_bias(torch.cat(parts))

    def _locations(self) -> Tensor:
        return self.head.bias.reshape(self.head.numbers, -1)[: self.components]
