"""The likelihood of grey levels: logistic distributions that are rounded to a grid."""

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

_SMALLEST_SCALE = 0.05  # in steps of the grid; a level can then have up to 0.9999 of the mass
_SCALE_PER_DEVIATION = math.sqrt(3) / math.pi  # scale of a logistic distribution over its standard deviation


class DiscretisedLogistic(Likelihood):
    """The likelihood of grey levels k / (levels - 1): rounded logistic distributions, or mixtures, for each entry of x.

    The probabilities of all levels sum to 1, because the first and the last level have all mass beyond the grid. So a
    log evidence is the logarithm of a probability and never positive. Scales are ``smallest + exp(raw)``, where
    `smallest` is 0.05 steps of the grid.

    Args:
        in_features: the attribute ``out_features`` of the decoder: a number, or (filters, height, width).
        data_shape: shape of one x, which is the event shape of the distribution.
        levels: number of grey levels in the data: 256 for pictures of 8 bits, 17 for the digits.
        components: number of logistic distributions in each entry; the decoder returns their weights too.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.

    Raises:
        InputError: for an unknown name, fewer than 2 levels, no component, or maps that do not fit the data.
    Source: Kingma et al., Inverse Autoregressive Flow, arXiv:1606.04934, appendix C; Salimans et al., PixelCNN++,
    arXiv:1701.05517, section 2.1. Channels are independent here.

    Example:
        >>> import pvae, torch
        >>> p = pvae.DiscretisedLogistic(8, (1,), levels=17)(torch.zeros(1, 8))
        >>> levels = torch.arange(17).reshape(-1, 1) / 16
        >>> round(p.log_prob(levels).exp().sum().item(), 3)  # the probabilities of all levels sum to 1
        1.0
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
        """Set the output bias so that mean and variance before rounding equal the mean and variance of the data.

        The maximum of the likelihood has no closed form. This start is close to it if the first and last level are
        rare. The components have equal weights and different locations.

        Args:
            x: data, shape (batch, ...).

        Raises:
            InputError: if a value is not on the grid.
        """
        self.check(x)
        columns = self.head.by_bias(x)
        scale = _SCALE_PER_DEVIATION * columns.std(0, correction=0)
        quantiles = (torch.arange(self.components, dtype=x.dtype, device=x.device) + 0.5) / self.components
        loc = columns.mean(0) + quantiles.logit().unsqueeze(-1) * scale
        spread = _SCALE_PER_DEVIATION * loc.std(0, correction=0)
        raw = ((scale.square() - spread.square()).sqrt() - self.smallest).clamp_min(self.smallest).log()
        parts = [loc, raw.expand_as(loc)] + [torch.zeros_like(loc)] * (self.components > 1)
        self.set_bias(torch.cat(parts))

    def _location_bias(self) -> Tensor:
        return self.head.bias.reshape(self.head.numbers, -1)[: self.components]
