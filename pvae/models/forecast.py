"""Forecasts: the time steps after the end of sequences, from the posterior of the state at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.weights import LogWeights

__all__ = ["Forecast", "resample"]


@dataclass(frozen=True)
class Forecast:
    """Draws of the time steps after the end of each sequence.

    Attributes:
        draws: shape (n, batch, steps) + the shape of one time step.
        effective_sample_size: the effective number of weighted draws of the guide for the state at the end, (batch,).
            If it is near 1, one draw has nearly all of the weight, and the forecast is not reliable.
    """

    draws: Tensor
    effective_sample_size: Tensor

    @property
    def mean(self) -> Tensor:
        """The mean of the draws, shape (batch, steps) + the shape of one time step."""
        return self.draws.mean(0)

    def quantiles(self, *levels: float) -> Tensor:
        """Return quantiles of the draws, shape (levels, batch, steps) + the shape of one time step.

        Args:
            levels: probabilities from 0 to 1.
        """
        return torch.quantile(self.draws, torch.tensor(levels).to(self.draws), dim=0)


def resample(weights: LogWeights, n: int) -> tuple[list[Tensor], Tensor]:
    """Return draws of the latent sites from the posterior, and the effective sample size of the weighted draws.

    Args:
        weights: log weights of draws of the guide.
        n: number of draws for each datum.

    Returns:
        The values by site in the order of the guide, (n, batch, ...) each, and the size, (batch,).

    Raises:
        InputError: if no draw of a datum has a weight above 0.
    """
    shares = weights.log_w.detach().double().softmax(0)
    is_finite = torch.isfinite(shares).all(0)
    if not bool(is_finite.all()):
        datum = int((~is_finite).nonzero()[0])
        raise InputError(f"No draw of z gives datum {datum} a weight above 0. Check its values and the model.")
    chosen = torch.multinomial(shares.T, n, replacement=True).T
    columns = torch.arange(shares.shape[1], device=chosen.device)
    return [value.detach()[chosen, columns] for value in weights.values.values()], 1 / shares.square().sum(0)
