"""Likelihoods p(x given z) of binary and of real data."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.checks import require_positive
from pvae.densities import distributions
from pvae.densities.base import Likelihood, OutputLayer
from pvae.errors import InputError
from pvae.names import unknown

__all__ = ["Bernoulli", "ContinuousBernoulli", "Gaussian"]

# The smallest probability for an initial bias: the logit of a pixel that is never on needs to be finite.
_RAREST = 1e-3
_SMALLEST_SCALE = 1e-3
_SCALES = ("learned", "per-pixel", "network")


class Bernoulli(Likelihood):
    """The likelihood of binary data: p(x given z) = Bernoulli(logits), independent in each entry of x.

    The arguments are described at `pvae.densities.base.Likelihood`.

    Example:
        >>> import pvae, torch
        >>> likelihood = pvae.Bernoulli(8, (2, 2))
        >>> p = likelihood(torch.zeros(5, 8))  # the features of the decoder for 5 data
        >>> p.batch_shape, p.event_shape
        (torch.Size([5]), torch.Size([2, 2]))
        >>> p.log_prob(torch.ones(5, 2, 2)).shape
        torch.Size([5])
    """

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return p(x given z) for features of shape (..., in_features), with event shape `data_shape`."""
        return dist.Bernoulli(logits=self.head(context)).to_event(len(self.data_shape))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Set the output bias to the logit of the mean of the data, clamped to [0.001, 0.999].

        Args:
            x: data, shape (batch, ...).
        """
        self.set_bias(self.head.by_bias(x).mean(0).clamp(_RAREST, 1 - _RAREST).logit())


class ContinuousBernoulli(Likelihood):
    """The likelihood of real data in [0, 1]: a density proportional to exp(logits * x), independent in each entry of x.

    The Bernoulli formula does not integrate to 1 over grey levels; this density does. Do not use it for data that are
    exactly 0 or 1, where the density has no upper bound. The arguments are described at
    `pvae.densities.base.Likelihood`.

    Example:
        >>> import pvae, torch
        >>> p = pvae.ContinuousBernoulli(8, (1,))(torch.zeros(1, 8))
        >>> grid = torch.linspace(0.0005, 0.9995, 1000).reshape(-1, 1)
        >>> round(p.log_prob(grid).exp().mean().item(), 3)  # the density integrates to 1
        1.0
    """

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return p(x given z) for features of shape (..., in_features), with event shape `data_shape`."""
        return distributions.ContinuousBernoulli(self.head(context)).to_event(len(self.data_shape))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Set the output bias so that the mean of the density is the mean of the data, clamped to [0.001, 0.999].

        This maximises the likelihood, as in every exponential family.

        Args:
            x: data, shape (batch, ...).

        Raises:
            InputError: if a value is outside [0, 1].
        """
        self.check(x)
        mean = self.head.by_bias(x).mean(0).clamp(_RAREST, 1 - _RAREST)
        low, high = torch.full_like(mean, -2 / _RAREST), torch.full_like(mean, 2 / _RAREST)
        for _ in range(60):  # bisection, because the mean increases with the logits
            middle = (low + high) / 2
            above = distributions.ContinuousBernoulli(middle).mean > mean
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        self.set_bias((low + high) / 2)


class Gaussian(Likelihood):
    """The likelihood of real data: p(x given z) = Normal(loc, scale), independent in each entry of x.

    A density has no upper bound if a scale can go to 0, for example at an entry that never varies, or at a datum that
    the decoder reproduces exactly. The scales of ``"per-pixel"`` and ``"network"`` are therefore ``smallest +
    exp(raw)``; the log-density of an entry is then at most -log(smallest) - 0.92 nats.

    Args:
        in_features: the attribute ``out_features`` of the decoder: a number, or (filters, height, width).
        data_shape: shape of one x, which is the event shape of the distribution.
        scale: the standard deviation; ``"learned"`` for one parameter, its logarithm; ``"per-pixel"`` for one
            parameter for each entry of x; or ``"network"`` for a second output layer, which computes the scales from
            the features of the decoder.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.
        smallest: the lower bound of the scales of ``"per-pixel"`` and ``"network"``, 0.01 by default. A good choice is
            the precision to which the data were measured or rounded.

    Raises:
        InputError: for an unknown name, a scale that is not positive, or maps that do not fit the data.
    Source: the scale as a network, Kingma & Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114, appendix C.2.

    Example:
        >>> import pvae, torch
        >>> p = pvae.Gaussian(8, (4,), scale=0.1)(torch.zeros(5, 8))
        >>> p.mean.shape, p.log_prob(torch.zeros(5, 4)).shape
        (torch.Size([5, 4]), torch.Size([5]))
    """

    def __init__(
        self,
        in_features: int | Sequence[int],
        data_shape: Sequence[int],
        scale: float | str = "learned",
        *,
        initialisation: str = "glorot",
        smallest: float | None = None,
    ) -> None:
        super().__init__(in_features, data_shape, initialisation=initialisation)
        if isinstance(scale, str) and scale not in _SCALES:
            raise unknown("scale", scale, [*_SCALES, "a positive number"])
        advice = "Or use scale='learned', 'per-pixel' or 'network'."
        self.scale = scale if isinstance(scale, str) else require_positive(scale, "scale", advice=advice)
        self.smallest = self._smallest_scale(smallest)
        if scale in ("learned", "per-pixel"):
            self.log_scale = nn.Parameter(torch.zeros(() if scale == "learned" else self.data_shape))
        if scale == "network":
            self.scale_head = OutputLayer(in_features, self.data_shape, initialisation=initialisation)

    def _smallest_scale(self, smallest: float | str | None) -> float:
        if self.scale not in ("per-pixel", "network"):
            if smallest is not None:
                raise InputError(f"scale={self.scale} has no lower bound. Leave smallest={smallest} out.")
            return 0.0
        if smallest is None:
            return 0.01
        return require_positive(smallest, "smallest", advice="It is the lower bound of the scales.")

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return p(x given z) for features of shape (..., in_features), with event shape `data_shape`."""
        loc = self.head(context)
        return dist.Normal(loc, self._scale(context, loc)).to_event(len(self.data_shape))

    def _scale(self, context: Tensor, loc: Tensor) -> Tensor:
        if not isinstance(self.scale, str):
            # A new tensor in the dtype of loc: a float32 buffer of 0.1 would be wrong in float64.
            return loc.new_full((), self.scale)
        if self.scale == "network":
            return self.smallest + self.scale_head(context).exp()
        scale = self.log_scale.exp()
        return self.smallest + scale if self.scale == "per-pixel" else scale

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Set the output bias to the mean of the data, and learned scales to the standard deviation around it.

        ``"per-pixel"`` has a scale for each entry, ``"network"`` for each bias of its output layer.

        Args:
            x: data, shape (batch, ...).
        """
        columns = self.head.by_bias(x)
        self.set_bias(columns.mean(0))
        if self.scale == "learned":
            residual = (columns - columns.mean(0)).square().mean().sqrt()
            self.log_scale.copy_(residual.clamp_min(_SMALLEST_SCALE).log())
        elif self.scale == "per-pixel":
            residual = x.reshape(len(x), *self.data_shape) - self.constant().mean.to(x)
            self.log_scale.copy_(self._raw(residual.square().mean(0).sqrt()))
        elif self.scale == "network":
            self.scale_head.bias.copy_(self._raw(columns.std(0, correction=0)))

    def _raw(self, scale: Tensor) -> Tensor:
        """Return the parameter for a scale, ``log(scale - smallest)``.

        For smaller scales, the parameter for twice the bound.
        """
        return (scale - self.smallest).clamp_min(self.smallest).log()
