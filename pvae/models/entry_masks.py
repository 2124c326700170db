"""Masks of data: leave out missing entries of x or whole data, in values and in densities."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent

from pvae.data.support import value_inside
from pvae.errors import InputError

__all__ = ["carry_forward", "fill_missing", "mask_entries", "zero_missing"]


def zero_missing(x: Tensor, mask: Tensor) -> Tensor:
    """Return x with 0 at missing entries. A product with the mask would keep NaN.

    Args:
        x: the data, shape (batch, ...).
        mask: 1 observed, 0 missing; it broadcasts to the shape of x.
    """
    return torch.where(mask > 0, x, torch.zeros_like(x))


def fill_missing(x: Tensor, mask: Tensor, density: TorchDistribution) -> Tensor:
    """Return x with a value in the support of its likelihood at missing entries, so that gradients are finite.

    Args:
        x: the data, (batch,) + event shape.
        mask: 1 observed, 0 missing; it broadcasts to the shape of x.
        density: p(x given z).
    """
    return torch.where(mask > 0, x, value_inside(density))


def mask_entries(density: TorchDistribution, mask: Tensor, owner: str) -> TorchDistribution:
    """Return p(x given z) of the observed entries only, with the batch and event shape of `density`.

    Args:
        density: p(x given z), batch shape (..., batch).
        mask: 1 observed, 0 missing, (batch,) + event shape.
        owner: the name of the model, for the error.

    Raises:
        InputError: if the density is not independent in each entry.
    """
    base, dims = density, 0
    while isinstance(base, Independent):
        dims += base.reinterpreted_batch_ndims
        base = base.base_dist
    if base.event_shape or dims != mask.dim() - 1:
        raise InputError(
            f"A {owner} leaves out single entries of x, so it needs a likelihood that is independent in each entry; "
            "got "
            f"{type(base).__name__} with events of shape {tuple(density.event_shape)}. Use 'gaussian' or 'bernoulli', "
            "for example."
        )
    return base.mask(mask > 0).to_event(dims)


def carry_forward(x: Tensor, mask: Tensor) -> Tensor:
    """Return x, (data, ...), with each missing entry replaced by the same entry of the last earlier datum that has it.

    If no earlier datum has the entry, the value of the last datum that has it is used. All values then occur in the
    data, about as often as they are observed. A mean is not used, because the mean of counts need not be a count.

    Args:
        x: the data.
        mask: 1 observed, 0 missing, in the shape of x.
    """
    rows = torch.arange(len(x), device=x.device).reshape(-1, *[1] * (x.dim() - 1))
    last_observed = torch.where(mask > 0, rows, -1).cummax(0).values
    source = torch.where(last_observed < 0, last_observed[-1:].clamp_min(0), last_observed)
    return zero_missing(x, mask).gather(0, source)
