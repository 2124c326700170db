"""Minibatches with labelled data in each: with few labels among many data, most minibatches would have none."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.batch import Batch

__all__ = ["interleaved", "labelled_per_batch"]


def labelled_per_batch(batch: Batch, size: int, least: float) -> int:
    """Return the number of labelled data in each minibatch.

    Args:
        batch: all training data; a label ``y`` of -1 is hidden.
        size: data per minibatch.
        least: smallest share of labelled data in a minibatch; their share of all data is used if it is larger.

    Returns:
        The count, from 1 to ``size - 1``. It is 0, with which the order is random, if ``least`` is 0, if all data or
        none are labelled, or if a minibatch has only one datum.
    """
    if least == 0 or size < 2 or "y" not in batch or batch["y"].is_floating_point():
        return 0
    known = int((batch["y"] >= 0).sum())
    if known in (0, batch.size):
        return 0
    return min(max(1, round(size * max(least, known / batch.size))), size - 1)


def interleaved(
    labelled: Tensor, hidden: Tensor, labelled_count: int, hidden_count: int, generator: torch.Generator
) -> Tensor:
    """Return positions of data in an order that mixes labelled and hidden data evenly.

    The order takes `labelled_count` labelled data, then `hidden_count` hidden data, and so on until it has all hidden
    data. Labelled data are repeated, in a new random order each time; hidden data keep their order.

    Args:
        labelled: positions of labelled data, shape (labelled,).
        hidden: positions of data without a label, shape (hidden,).
        labelled_count: labelled data per minibatch.
        hidden_count: hidden data per minibatch.
        generator: draws the random orders.

    Returns:
        Positions, shape (steps * labelled_count + hidden,).
    """
    steps = -(-len(hidden) // hidden_count)
    rounds = -(-steps * labelled_count // len(labelled))
    shuffled = [labelled[torch.randperm(len(labelled), generator=generator)] for _ in range(rounds)]
    repeated = torch.cat(shuffled)[: steps * labelled_count]
    pairs = zip(repeated.split(labelled_count), hidden.split(hidden_count), strict=True)
    return torch.cat([torch.cat(pair) for pair in pairs])
