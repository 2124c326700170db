"""Two ways to fill missing entries without a model, which a model has to beat, and the score of what is filled in."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.evaluate.base import Estimate

__all__ = ["filled_log_likelihood", "mean_filling", "nearest_neighbour_filling"]

_AT_ONCE = 500  # rows compared with all training data


def mean_filling(train: Batch, batch: Batch) -> Tensor:
    """Return x with each missing entry at the mean of the training data's entry there, shape of x.

    Args:
        train: training data; where they have a ``mask`` themselves, their observed entries count.
        batch: data with ``x`` and ``mask`` (1 observed, 0 missing).
    """
    x, seen = _pair(batch)
    return torch.where(seen > 0, x, _mean(train)).reshape(batch.x.shape)


def nearest_neighbour_filling(train: Batch, batch: Batch) -> Tensor:
    """Return x with its missing entries from the training datum that is nearest in the observed ones, shape of x.

    Distances are mean squares over the entries that both have; what a neighbour has not either, and all entries of a
    datum with nothing observed, come from the mean.

    Args:
        train: training data; where they have a ``mask`` themselves, their observed entries count.
        batch: data with ``x`` and ``mask`` (1 observed, 0 missing).
    """
    x, seen = _pair(batch)
    rows, held = _pair(train)
    mean = _mean(train)
    found = []
    for here, mask in zip(x.split(_AT_ONCE), seen.split(_AT_ONCE), strict=True):
        kept = here * mask
        squares = (kept * here) @ held.T - 2 * kept @ (rows * held).T + mask @ (rows.square() * held).T
        common = mask @ held.T
        nearest = (squares / common.clamp_min(1)).masked_fill(common == 0, torch.inf).argmin(1)
        there = (held[nearest] > 0) & (mask.sum(1, keepdim=True) > 0)
        found.append(torch.where(there, rows[nearest], mean))
    return torch.where(seen > 0, x, torch.cat(found)).reshape(batch.x.shape)


def filled_log_likelihood(filled: Tensor, batch: Batch, least: float = 0.01) -> Estimate:
    """Return the mean log-likelihood of the missing entries, in nats per missing entry, of x in {0, 1}.

    What was filled in is taken as the probability of 1, squeezed into [least, 1 - least]: without that, one wrong pixel
    of a nearest neighbour would count minus infinity. Divided datum by datum by the number of missing entries, as by
    `missing_log_likelihood`; data with none are left out.

    Args:
        filled: x filled in, shape of x.
        batch: data with a complete ``x`` and ``mask`` (1 observed, 0 missing).
        least: the least probability of either value.

    Raises:
        InputError: if x has other values than 0 and 1, or nothing is missing.
    """
    x, seen = _pair(batch)
    if not bool(((x == 0) | (x == 1)).all()):
        raise InputError("A score of filled entries by their probability needs x in {0, 1}: binarise the data.")
    probability = filled.reshape(x.shape).to(x).clamp(least, 1 - least)
    scores = torch.where(x > 0, probability, 1 - probability).log().double()
    hidden = (1 - seen).double()
    count = hidden.sum(1)
    if not bool((count > 0).any()):
        raise InputError("Nothing is missing in these data: load them with mask='block', say.")
    return Estimate.mean_of(((scores * hidden).sum(1) / count)[count > 0])


def _pair(batch: Batch) -> tuple[Tensor, Tensor]:
    """X and its mask, flat; without a mask, all is observed."""
    x = batch["x"].flatten(1)
    mask = batch["mask"].reshape(x.shape).to(x.dtype) if "mask" in batch else torch.ones_like(x)
    return x, mask


def _mean(train: Batch) -> Tensor:
    x, mask = _pair(train)
    return (x * mask).sum(0) / mask.sum(0).clamp_min(1)
