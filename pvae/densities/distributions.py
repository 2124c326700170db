"""Distributions that Pyro does not have, or that lose precision in PyTorch at extreme parameters."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid, softplus

__all__ = ["Categorical", "ContinuousBernoulli", "DiscretisedLogistic", "Grid", "NegativeBinomial"]

_OFF_GRID = 0.01  # in steps: rounding to float32 moves k / 255 by 3e-5 of a step; k / 256 differs by up to 1
_SERIES = 0.3  # for smaller logits, terms of 1 / logits cancel, and the series are exact to 1e-15


class Grid(constraints.Constraint):
    """The constraint that values are grey levels k / (levels - 1) for k = 0, ..., levels - 1, up to rounding."""

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Return which values are on the grid, in the shape of `value`."""
        steps = value * (self.levels - 1)
        return (value >= 0) & (value <= 1) & ((steps - steps.round()).abs() < _OFF_GRID)

    def __repr__(self) -> str:
        return "{0, 1}" if self.levels == 2 else f"{{0, 1/{self.levels - 1}, ..., 1}}"


class _Elementwise(TorchDistribution):
    """A distribution with parameters of its batch shape followed by `_trailing` dimensions, such as components."""

    _names: tuple[str, ...]
    _trailing = 0

    def _set(self, *parameters: Tensor, validate_args: bool | None = None) -> None:
        parameters = torch.broadcast_tensors(*parameters)
        for name, parameter in zip(self._names, parameters, strict=True):
            setattr(self, name, parameter)
        shape = parameters[0].shape
        super().__init__(shape[: len(shape) - self._trailing], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Return the distribution with a larger batch shape, without copying its parameters."""
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
        """Copy the attributes that are not tensors to an expanded distribution."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density, or the log-probability, of each value, shape (...), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self._score(value)

    def _score(self, value: Tensor) -> Tensor:
        """Return the result of `log_prob`, without validation of `value`."""
        raise NotImplementedError


class DiscretisedLogistic(_Elementwise):
    """A mixture of logistic distributions, rounded to the nearest of the levels k / (levels - 1).

    The probability of a level is the mass of the interval of one step around it. The first and the last level also have
    the mass beyond the grid, so the probabilities sum to 1. With F the logistic function, and a < b the ends of the
    interval in units of the scale, log(F(b) - F(a)) is computed as log F(b) + log F(-a) + log(1 - exp(a - b)). This is
    exact for any location and scale and needs no small constant.

    Args:
        loc: locations in units of x, shape (..., components).
        scale: scales, which broadcast with `loc`.
        logits: unnormalised log-weights of the components, which broadcast with `loc`; None for equal weights.
        levels: number of grey levels.
        validate_args: whether to check parameters and values; None for PyTorch's default.

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
        """The constraint that values are grey levels."""
        return Grid(self.levels)

    def _score(self, value: Tensor) -> Tensor:
        x = value.unsqueeze(-1)
        half_step = 0.5 / (self.levels - 1)
        lower, upper = (x - half_step - self.loc) / self.scale, (x + half_step - self.loc) / self.scale
        is_first, is_last = x < half_step, x > 1 - half_step
        zeros = torch.zeros_like(lower)
        interval = torch.log(-torch.expm1(-2 * half_step / self.scale)) + zeros
        by_component = (
            torch.where(is_last, zeros, logsigmoid(upper))
            + torch.where(is_first, zeros, logsigmoid(-lower))
            + torch.where(is_first | is_last, zeros, interval)
        )
        if by_component.shape[-1] == 1:
            return by_component.squeeze(-1)
        return (by_component + self.logits.log_softmax(-1)).logsumexp(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws from the grid, shape sample_shape + (...): a logistic draw of one component, then rounded."""
        shape = torch.Size(sample_shape)
        component = dist.Categorical(logits=self.logits).sample(shape).unsqueeze(-1)
        loc = self.loc.expand(*shape, *self.loc.shape).gather(-1, component)[..., 0]
        scale = self.scale.expand(*shape, *self.scale.shape).gather(-1, component)[..., 0]
        x = loc + scale * torch.rand_like(loc).logit()
        return (x * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)

    def levels_log_prob(self) -> Tensor:
        """Return the log-probabilities of all levels, shape (levels, ...), in nats."""
        grid = torch.arange(self.levels, dtype=self.loc.dtype, device=self.loc.device) / (self.levels - 1)
        return self._score(grid.reshape(-1, *[1] * len(self.batch_shape)))

    @property
    def mean(self) -> Tensor:
        """The exact mean, shape (...): a sum of P(x > edge) over the edges between levels.

        The edges are added one after another, because all edges at once would need much memory.
        """
        weights = self.logits.softmax(-1)
        edges = [(level + 0.5) / (self.levels - 1) for level in range(self.levels - 1)]
        above = sum(((self.loc - edge) / self.scale).sigmoid() for edge in edges)
        return (weights * above).sum(-1) / (self.levels - 1)

    def entropy(self) -> Tensor:
        """Return the exact entropy, shape (...), in nats; it needs memory for all levels."""
        score = self.levels_log_prob()
        return -(score.exp() * score).sum(0)


class ContinuousBernoulli(_Elementwise):
    """The density exp(logits * x) on [0, 1], divided by its integral (exp(logits) - 1) / logits.

    The distribution of PyTorch clamps the probability to the precision of its dtype. In float32 the error of its
    log-density is 0.06 nats at logits of 17 and 1.3 nats at 60, which occur for pictures with a black margin, and the
    error of its mean is 4e-4 near logits of 0. This class has no such limits.

    Args:
        logits: the natural parameter of the exponential family, of any sign.
        validate_args: whether to check parameters and values; None for PyTorch's default.

    Source: Loaiza-Ganem & Cunningham, The continuous Bernoulli, arXiv:1907.06845.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = constraints.unit_interval
    _names = ("logits",)
    logits: Tensor

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self._set(logits, validate_args=validate_args)

    def log_normaliser(self) -> Tensor:
        """Return log((exp(logits) - 1) / logits), shape (...); it is 0 at logits of 0."""
        small, size = self._sizes()
        square = (self.logits / 2).square()
        higher = 1 / 2835 - square * (1 / 37800 - square / 467775)
        series = self.logits / 2 + square * (1 / 6 - square * (1 / 180 - square * higher))
        return torch.where(small, series, self.logits.relu() + torch.log(-torch.expm1(-size) / size))

    def _sizes(self) -> tuple[Tensor, Tensor]:
        """Return where the series is used, and the absolute logits, or 1 there, because 0 would give a NaN gradient."""
        small = self.logits.abs() < _SERIES
        return small, torch.where(small, torch.ones_like(self.logits), self.logits).abs()

    def _score(self, value: Tensor) -> Tensor:
        return self.logits * value - self.log_normaliser()

    @property
    def mean(self) -> Tensor:
        """The mean, 1 / (1 - exp(-logits)) - 1 / logits, shape (...)."""
        small, size = self._sizes()
        square = self.logits.square()
        higher = 1 / 30240 - square * (1 / 1209600 - square / 47900160)
        series = 0.5 + self.logits * (1 / 12 - square * (1 / 720 - square * higher))
        away = 1 / size - 1 / torch.expm1(size)
        return torch.where(small, series, torch.where(self.logits > 0, 1 - away, away))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, shape sample_shape + (...), by the inverse of the distribution function."""
        logits = self.logits.expand(*sample_shape, *self.logits.shape)
        size = logits.abs().clamp_min(1e-6)  # differs from the uniform distribution by 1e-6 at most
        away = (-torch.log1p(torch.rand_like(logits) * torch.expm1(-size)) / size).clamp(0, 1)
        return torch.where(logits > 0, 1 - away, away)

    def entropy(self) -> Tensor:
        """Return the differential entropy, shape (...), in nats."""
        return self.log_normaliser() - self.logits * self.mean


class NegativeBinomial(_Elementwise):
    """Counts with mean `rate` and variance rate + dispersion * rate^2: a Poisson distribution with a Gamma rate.

    Log gamma functions are computed in float64, because for a small dispersion their difference has no correct digit in
    float32.

    Args:
        rate: the mean, positive.
        dispersion: a positive number; in the limit 0 the counts are Poisson distributed.
        validate_args: whether to check parameters and values; None for PyTorch's default.
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
        """The mean, shape (...), which is the rate."""
        return self.rate

    def _score(self, value: Tensor) -> Tensor:
        shape = 1 / self.dispersion
        logits = self.rate.log() + self.dispersion.log()
        wide, count = shape.double(), value.double()
        log_binomial = torch.lgamma(wide + count) - torch.lgamma(wide) - torch.lgamma(count + 1)
        return log_binomial.to(logits.dtype) - shape * softplus(logits) + value * logsigmoid(logits)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, shape sample_shape + (...): a rate from the Gamma distribution, then a count."""
        shape = 1 / self.dispersion
        return torch.poisson(dist.Gamma(shape, shape / self.rate).sample(torch.Size(sample_shape)))


class Categorical(dist.Categorical):
    """Pyro's categorical distribution with draws in the dtype of the logits, and with a mean.

    A value that is not a class has log-probability -inf; PyTorch's class would stop the process on a CUDA device.
    """

    @property
    def mean(self) -> Tensor:
        """The mean of the number of the class, shape (...), for classes that have an order."""
        return (self.probs * torch.arange(self._num_events, dtype=self.probs.dtype, device=self.probs.device)).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, shape sample_shape + (...), in the dtype of the logits."""
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of each class number, shape (...), in nats."""
        if self._validate_args:
            self._validate_sample(value)
        known = (value >= 0) & (value < self._num_events)
        chosen = torch.where(known, value, torch.zeros_like(value)).long().unsqueeze(-1)
        chosen, logits = torch.broadcast_tensors(chosen, self.logits)
        return logits.gather(-1, chosen[..., :1]).squeeze(-1).masked_fill(~known, -torch.inf)
