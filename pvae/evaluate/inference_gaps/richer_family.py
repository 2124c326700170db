"""Richer families of q in real coordinates: a Gaussian with full covariance, and a planar flow on top of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["RICHER", "FullCovariance", "PlanarFlow", "RicherFamily"]

#: The number that is added to the variance of the guide's draws, at the start of the search.
_LEAST_VARIANCE = 1e-6

_LAYERS = 4


class RicherFamily(Protocol):
    """A family of distributions over coordinates, with parameters for each datum."""

    def sample(self, parameters: Mapping[str, Tensor], particles: int) -> tuple[Tensor, Tensor]:
        """Return draws u, shape (particles, batch, count), and log q(u), shape (particles, batch), both pathwise."""


class FullCovariance:
    """N(mean, L L'), L lower triangular with a positive diagonal.

    The parameters of log q are detached, so the pathwise gradient has no variance if q is the posterior (sticking the
    landing).

    Source: Roeder, Wu & Duvenaud, Sticking the Landing, arXiv:1703.09194.
    """

    def start(self, draws: Tensor) -> dict[str, Tensor]:
        """Return the mean and the standard deviations of draws, without correlation.

        Args:
            draws: draws of the guide, shape (draws, batch, count).
        """
        variance = draws.var(0) + _LEAST_VARIANCE
        below = draws.new_zeros(*draws.shape[1:], draws.shape[2])
        return {"mean": draws.mean(0), "log_diagonal": 0.5 * variance.log(), "below": below}

    def sample(self, parameters: Mapping[str, Tensor], particles: int) -> tuple[Tensor, Tensor]:
        """Return draws and their log-density."""
        draws = self._distribution(parameters).rsample(torch.Size([particles]))
        fixed = {name: parameter.detach() for name, parameter in parameters.items()}
        return draws, self._distribution(fixed).log_prob(draws)

    @staticmethod
    def _distribution(parameters: Mapping[str, Tensor]) -> torch.distributions.MultivariateNormal:
        diagonal = torch.diag_embed(parameters["log_diagonal"].exp())
        return torch.distributions.MultivariateNormal(
            parameters["mean"], scale_tril=diagonal + parameters["below"].tril(-1), validate_args=False
        )


class PlanarFlow:
    """Planar flows after a Gaussian with full covariance.

    Source: Rezende & Mohamed, Variational Inference with Normalizing Flows, arXiv:1505.05770, section 4.1.
    """

    def __init__(self) -> None:
        self.base = FullCovariance()

    def grow(self, gaussian: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters of a Gaussian with flows that are nearly the identity.

        Args:
            gaussian: parameters of `FullCovariance`.
        """
        mean = gaussian["mean"]
        batch, count = mean.shape
        weight = torch.randn(_LAYERS, batch, count, dtype=mean.dtype, device=mean.device) / count**0.5
        flows = {"u": 0.01 * weight, "w": weight.clone(), "b": mean.new_zeros(_LAYERS, batch)}
        return {**gaussian, **flows}

    def sample(self, parameters: Mapping[str, Tensor], particles: int) -> tuple[Tensor, Tensor]:
        """Return draws and their log-density."""
        distribution = self.base._distribution(parameters)
        value = distribution.rsample(torch.Size([particles]))
        log_q = distribution.log_prob(value)
        for u, w, b in zip(parameters["u"], parameters["w"], parameters["b"], strict=True):
            # This u keeps the flow invertible.
            product = (u * w).sum(-1, keepdim=True)
            u_hat = u + (softplus(product) - 1 - product) * w / w.square().sum(-1, keepdim=True).clamp_min(1e-12)
            activation = torch.tanh((value * w).sum(-1) + b)
            log_q = log_q - torch.log1p((1 - activation.square()) * (u_hat * w).sum(-1))
            value = value + u_hat * activation.unsqueeze(-1)
        return value, log_q


RICHER = ("full-covariance", "flow")
"""Names of richer families."""
