"""Distributions that Pyro lacks, or whose formulas lose their digits where a decoder goes."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid, softplus

__all__ = ["Categorical", "ContinuousBernoulli", "DiscretisedLogistic", "Grid", "NegativeBinomial"]

_OFF_GRID = 0.01  # in steps: k / 255 in float32 is off by 3e-5 of a step, k / 256 by up to 1
_SERIES = 0.3  # below this, terms of 1 / logits cancel; the series are exact to 1e-15


class Grid(constraints.Constraint):
    """The grey levels k / (levels - 1) for k = 0, ..., levels - 1, up to rounding."""

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return which values are on the grid."""
        steps = value * (self.levels - 1)
        return (value >= 0) & (value <= 1) & ((steps - steps.round()).abs() < _OFF_GRID)

    def __repr__(self) -> str:
        return "{0, 1}" if self.levels == 2 else f"{{0, 1/{self.levels - 1}, ..., 1}}"


class _Elementwise(TorchDistribution):
    """A distribution whose parameters all have its batch shape, but for `_trailing` last dimensions."""

    _names: tuple[str, ...]
    _trailing = 0

    def _set(self, *parameters: Tensor, validate_args: bool | None = None) -> None:
        parameters = torch.broadcast_tensors(*parameters)
        for name, each in zip(self._names, parameters, strict=True):
            setattr(self, name, each)
        shape = parameters[0].shape
        super().__init__(shape[: len(shape) - self._trailing], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the distribution with a larger batch shape, without copies."""
        new = self._get_checked_instance(type(self), _instance)
        first = getattr(self, self._names[0])
        tail = first.shape[first.dim() - self._trailing :]
        for name in self._names:
            setattr(new, name, getattr(self, name).expand(*batch_shape, *tail))
        self._copy(new)
        super(_Elementwise, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def _copy(self, new: Any) -> None:
        """Give a copy what is no tensor."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density, or log mass, of each value, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self._score(value)

    def _score(self, value: Tensor) -> Tensor:
        raise NotImplementedError


class DiscretisedLogistic(_Elementwise):
    """A mixture of logistic distributions, rounded to the nearest of the levels k / (levels - 1).

    The mass of a level is that of its interval of one step around it; the two ends take all that lies beyond, so
    that the masses of all levels sum to 1. With F the logistic function, and a < b the interval's ends in units
    of the scale, log(F(b) - F(a)) is computed as log F(b) + log F(-a) + log(1 - exp(a - b)), which is exact for
    any location and scale: no case distinction, no small constant.

    Args:
        loc: locations in units of x, shape (..., components).
        scale: their scales, which broadcast with `loc`.
        logits: unnormalised log weights of the components, which broadcast with `loc`; None for equal ones.
        levels: number of grey levels.

    The batch shape is (...), without the components.
    Source: Kingma et al., Inverse Autoregressive Flow, arXiv:1606.04934, appendix C (single); Salimans et al.,
    PixelCNN++, arXiv:1701.05517, section 2.1 (mixture).
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
        "logits": constraints.real_vector,
    }
    _names = ("loc", "scale", "logits")
    _trailing = 1
    loc: Tensor
    scale: Tensor
    logits: Tensor

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        logits: Tensor | None = None,
        *,
        levels: int = 256,
        validate_args: bool | None = None,
    ) -> None:
        self.levels = levels
        self._set(loc, scale, torch.zeros_like(loc) if logits is None else logits, validate_args=validate_args)

    def _copy(self, new: Any) -> None:
        new.levels = self.levels

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Grid:
        """The grey levels."""
        return Grid(self.levels)

    def _score(self, value: Tensor) -> Tensor:
        x = value.unsqueeze(-1)
        half = 0.5 / (self.levels - 1)
        lower, upper = (x - half - self.loc) / self.scale, (x + half - self.loc) / self.scale
        bottom, top, zero = x < half, x > 1 - half, torch.zeros_like(lower)
        inside = torch.log(-torch.expm1(-2 * half / self.scale)) + zero
        mass = (
            torch.where(top, zero, logsigmoid(upper))
            + torch.where(bottom, zero, logsigmoid(-lower))
            + torch.where(bottom | top, zero, inside)
        )
        return mass.squeeze(-1) if mass.shape[-1] == 1 else (mass + self.logits.log_softmax(-1)).logsumexp(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws from the grid: a component, a logistic draw, rounded and cut at the ends."""
        shape = torch.Size(sample_shape)
        chosen = dist.Categorical(logits=self.logits).sample(shape).unsqueeze(-1)
        loc, scale = (each.expand(*shape, *each.shape).gather(-1, chosen)[..., 0] for each in (self.loc, self.scale))
        x = loc + scale * torch.rand_like(loc).logit()
        return (x * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)

    def levels_log_prob(self) -> Tensor:
        """Return the log masses of all levels, shape (levels,) + batch shape."""
        grid = torch.arange(self.levels, dtype=self.loc.dtype, device=self.loc.device) / (self.levels - 1)
        return self._score(grid.reshape(-1, *[1] * len(self.batch_shape)))

    @property
    def mean(self) -> Tensor:
        """The exact mean, as a sum of P(x > edge) over the edges between levels: one at a time, to spare memory."""
        weights = self.logits.softmax(-1)
        edges = [(k + 0.5) / (self.levels - 1) for k in range(self.levels - 1)]
        above = sum(((self.loc - edge) / self.scale).sigmoid() for edge in edges)
        return (weights * above).sum(-1) / (self.levels - 1)

    def entropy(self) -> Tensor:
        """Return the exact entropy in nats; it takes memory for all levels."""
        score = self.levels_log_prob()
        return -(score.exp() * score).sum(0)


class ContinuousBernoulli(_Elementwise):
    """The density exp(logits * x) on [0, 1], divided by its integral (exp(logits) - 1) / logits.

    PyTorch's own clamps the probability to what its dtype resolves: in float32 its log density is 0.06 nats
    off at logits 17 and 1.3 at 60, where the decoder of a picture with a black margin goes, and its mean is
    4e-4 off near logits 0. This one has no such bounds.

    Args:
        logits: the exponential family's natural parameter, of any sign.

    Source: Loaiza-Ganem & Cunningham, The continuous Bernoulli, arXiv:1907.06845.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = constraints.unit_interval
    _names = ("logits",)
    logits: Tensor

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self._set(logits, validate_args=validate_args)

    def log_normaliser(self) -> Tensor:
        """Return log((exp(logits) - 1) / logits), which is 0 at 0."""
        small, size = self._sizes()
        square = (self.logits / 2).square()
        higher = 1 / 2835 - square * (1 / 37800 - square / 467775)
        series = self.logits / 2 + square * (1 / 6 - square * (1 / 180 - square * higher))
        return torch.where(small, series, self.logits.relu() + torch.log(-torch.expm1(-size) / size))

    def _sizes(self) -> tuple[Tensor, Tensor]:
        """Where the series holds, and the size of the logits, kept off 0 there for the gradient's sake."""
        small = self.logits.abs() < _SERIES
        return small, torch.where(small, torch.ones_like(self.logits), self.logits).abs()

    def _score(self, value: Tensor) -> Tensor:
        return self.logits * value - self.log_normaliser()

    @property
    def mean(self) -> Tensor:
        """The mean: 1 / (1 - exp(-logits)) - 1 / logits."""
        small, size = self._sizes()
        square = self.logits.square()
        higher = 1 / 30240 - square * (1 / 1209600 - square / 47900160)
        series = 0.5 + self.logits * (1 / 12 - square * (1 / 720 - square * higher))
        away = 1 / size - 1 / torch.expm1(size)
        return torch.where(small, series, torch.where(self.logits > 0, 1 - away, away))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, by the inverse of the distribution function."""
        logits = self.logits.expand(*sample_shape, *self.logits.shape)
        size = logits.abs().clamp_min(1e-6)  # the uniform distribution, up to 1e-6
        away = (-torch.log1p(torch.rand_like(logits) * torch.expm1(-size)) / size).clamp(0, 1)
        return torch.where(logits > 0, 1 - away, away)

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats."""
        return self.log_normaliser() - self.logits * self.mean


class NegativeBinomial(_Elementwise):
    """Counts of mean `rate` and variance rate + dispersion * rate^2: Poisson's, with a rate that is Gamma distributed.

    Log gamma functions are taken in float64: at a small dispersion their difference loses all digits of float32.

    Args:
        rate: positive.
        dispersion: positive; towards 0 the counts become Poisson distributed.
    """

    arg_constraints = {"rate": constraints.positive, "dispersion": constraints.positive}  # noqa: RUF012
    support = constraints.nonnegative_integer
    _names = ("rate", "dispersion")
    rate: Tensor
    dispersion: Tensor

    def __init__(self, rate: Tensor, dispersion: Tensor, *, validate_args: bool | None = None) -> None:
        self._set(rate, dispersion, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean, which is the rate."""
        return self.rate

    def _score(self, value: Tensor) -> Tensor:
        shape = 1 / self.dispersion
        logits = self.rate.log() + self.dispersion.log()
        wide, count = shape.double(), value.double()
        ways = torch.lgamma(wide + count) - torch.lgamma(wide) - torch.lgamma(count + 1)
        return ways.to(logits.dtype) - shape * softplus(logits) + value * logsigmoid(logits)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws: a rate from the Gamma distribution, then a count."""
        shape = 1 / self.dispersion
        return torch.poisson(dist.Gamma(shape, shape / self.rate).sample(torch.Size(sample_shape)))


class Categorical(dist.Categorical):
    """Pyro's categorical distribution for data: draws have the dtype of the logits, and there is a mean.

    A value outside the classes scores -inf, where PyTorch's own stops the process on a CUDA device.
    """

    @property
    def mean(self) -> Tensor:
        """The mean of the class's number: of use where classes have an order."""
        return (self.probs * torch.arange(self._num_events, dtype=self.probs.dtype, device=self.probs.device)).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, as numbers of the dtype of the logits."""
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of each class's number, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        known = (value >= 0) & (value < self._num_events)
        chosen = torch.where(known, value, torch.zeros_like(value)).long().unsqueeze(-1)
        chosen, logits = torch.broadcast_tensors(chosen, self.logits)
        return logits.gather(-1, chosen[..., :1]).squeeze(-1).masked_fill(~known, -torch.inf)
