"""Likelihoods of whole numbers: counts and classes."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.checks import require_positive, require_whole
from pvae.densities import distributions
from pvae.densities.base import Likelihood
from pvae.names import unknown

__all__ = ["Categorical", "NegativeBinomial", "Poisson"]

# The smallest mean count, and the smallest probability of a class, for an initial bias: its logarithm needs to be
# finite.
_RAREST = 1e-3
_SMALLEST_DISPERSION = 1e-4
_DISPERSIONS = ("learned", "per-entry")


class Poisson(Likelihood):
    """The likelihood of counts 0, 1, 2, ...: p(x given z) = Poisson(exp(log_mean)), independent in each entry of x.

    The arguments are described at `pvae.densities.base.Likelihood`.

    Example:
        >>> import pvae, torch
        >>> p = pvae.Poisson(8, (4,))(torch.zeros(1, 8))
        >>> bool(torch.allclose(p.variance, p.mean))
        True
    """

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return p(x given z) for features of shape (..., in_features), with event shape `data_shape`."""
        return dist.Poisson(self.head(context).exp()).to_event(len(self.data_shape))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Set the output bias to the logarithm of the mean of the data, or of 0.001 if that is larger.

        Args:
            x: data, shape (batch, ...).

        Raises:
            InputError: if a value is not a count.
        """
        self.check(x)
        self.set_bias(self.head.by_bias(x).mean(0).clamp_min(_RAREST).log())


class NegativeBinomial(Likelihood):
    """The likelihood of counts with a larger variance than Poisson's.

    The mean is exp(log_mean) and the variance is mean + dispersion * mean^2, independent in each entry of x.

    Args:
        in_features: the attribute ``out_features`` of the decoder: a number, or (filters, height, width).
        data_shape: shape of one x, which is the event shape of the distribution.
        dispersion: ``"learned"`` for one number that is a parameter, ``"per-entry"`` for one parameter for each entry
            of x, or a positive number. A learned dispersion is 0.0001 + exp(raw).
        initialisation: a name of `pvae.networks.INITIALISATIONS`.

    Raises:
        InputError: for an unknown name, a dispersion that is not positive, or maps that do not fit the data.
    Source: Lopez et al., Deep generative modeling for single-cell transcriptomics, Nature Methods 15 (2018), which uses
    the inverse of the dispersion.

    Example:
        >>> import pvae, torch
        >>> p = pvae.NegativeBinomial(8, (1,), dispersion=0.5)(torch.zeros(1, 8))
        >>> counts = torch.arange(400.0).reshape(-1, 1)
        >>> round(p.log_prob(counts).exp().sum().item(), 3)  # the probabilities of all counts sum to 1
        1.0
    """

    def __init__(
        self,
        in_features: int | Sequence[int],
        data_shape: Sequence[int],
        dispersion: float | str = "learned",
        *,
        initialisation: str = "glorot",
    ) -> None:
        super().__init__(in_features, data_shape, initialisation=initialisation)
        if isinstance(dispersion, str) and dispersion not in _DISPERSIONS:
            raise unknown("dispersion", dispersion, [*_DISPERSIONS, "a positive number"])
        advice = "Or use dispersion='learned' or 'per-entry'."
        if not isinstance(dispersion, str):
            dispersion = require_positive(dispersion, "dispersion", advice=advice)
        self.dispersion = dispersion
        if isinstance(dispersion, str):
            self.log_dispersion = nn.Parameter(torch.zeros(() if dispersion == "learned" else self.data_shape))

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return p(x given z) for features of shape (..., in_features), with event shape `data_shape`."""
        mean = self.head(context).exp()
        if isinstance(self.dispersion, str):
            dispersion = _SMALLEST_DISPERSION + self.log_dispersion.exp()
        else:
            dispersion = mean.new_full((), self.dispersion)
        return distributions.NegativeBinomial(mean, dispersion).to_event(len(self.data_shape))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Set the output bias to the logarithm of the mean of the data, or of 0.001 if that is larger.

        This maximises the likelihood if values with the same mean have the same dispersion. A learned dispersion starts
        at its estimate by the method of moments, (variance - mean) / mean^2.

        Args:
            x: data, shape (batch, ...).

        Raises:
            InputError: if a value is not a count.
        """
        self.check(x)
        self.set_bias(self.head.by_bias(x).mean(0).clamp_min(_RAREST).log())
        if isinstance(self.dispersion, str):
            mean = self.constant().mean[0].to(x)
            excess = (x.reshape(len(x), *self.data_shape) - mean).square().mean(0) - mean
            if self.dispersion == "learned":
                excess, mean = excess.mean(), mean.square().mean().sqrt()
            raw = (excess / mean.square()).clamp(2 * _SMALLEST_DISPERSION, 1e3) - _SMALLEST_DISPERSION
            self.log_dispersion.copy_(raw.log())


class Categorical(Likelihood):
    """The likelihood of classes 0, ..., classes - 1: p(x given z) = softmax(logits), independent in each entry of x.

    x may have any dtype. The encoder gets the number of the class; if classes have no order, write an encoder that
    treats them as categories.

    Args:
        in_features: the attribute ``out_features`` of the decoder: a number, or (filters, height, width).
        data_shape: shape of one x, which is the event shape of the distribution.
        classes: number of classes.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.

    Raises:
        InputError: for an unknown name, fewer than 2 classes, or maps that do not fit the data.

    Example:
        >>> import pvae, torch
        >>> p = pvae.Categorical(8, (3,), classes=5)(torch.zeros(2, 8))
        >>> p.log_prob(torch.tensor([[0, 1, 4], [2, 2, 3]])).shape
        torch.Size([2])
    """

    def __init__(
        self,
        in_features: int | Sequence[int],
        data_shape: Sequence[int],
        classes: int,
        *,
        initialisation: str = "glorot",
    ) -> None:
        classes = require_whole(classes, "classes", least=2)
        super().__init__(in_features, data_shape, initialisation=initialisation, numbers=classes)
        self.classes = classes

    def forward(self, context: Tensor) -> dist.TorchDistribution:
        """Return p(x given z) for features of shape (..., in_features), with event shape `data_shape`."""
        logits = self.head(context).movedim(-1 - len(self.data_shape), -1)
        return distributions.Categorical(logits=logits).to_event(len(self.data_shape))

    @torch.no_grad()
    def initialise_from(self, x: Tensor) -> None:
        """Set the output bias to the logarithm of the share of each class, or of 0.001 if that is larger.

        Args:
            x: data, shape (batch, ...).

        Raises:
            InputError: if a value is not a class.
        """
        self.check(x)
        columns = self.head.by_bias(x)
        shares = [(columns == label).to(self.head.bias.dtype).mean(0) for label in range(self.classes)]
        self.set_bias(torch.cat(shares).clamp_min(_RAREST).log())
