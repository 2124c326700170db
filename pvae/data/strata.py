"""Labelled data in every minibatch: few labels among many data would leave most minibatches without one."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.batch import Batch

__all__ = ["interleaved", "labelled_per_batch"]


def labelled_per_batch(batch: Batch, size: int, least: float) -> int:
    """Return how many of each minibatch are labelled data, at least a part `least` of it; 0 for as they fall.

    That is so where all data are labelled, or none, or a minibatch has no room for both kinds.

    Args:
        batch: all training data.
        size: data per minibatch.
        least: least part; a greater share of labelled data among all counts in its place.
    """
    if least == 0 or size < 2 or "y" not in batch or batch["y"].is_floating_point():
        return 0
    known = int((batch["y"] >= 0).sum())
    if known in (0, batch.size):
        return 0
    return min(max(1, round(size * max(least, known / batch.size))), size - 1)


def interleaved(labelled: Tensor, hidden: Tensor, own: int, others: int, generator: torch.Generator) -> Tensor:
    """Return `own` positions of `labelled`, `others` of `hidden`, and so on until all hidden data have come.

    Labelled data come in one random order after another, so each comes as often as any other; hidden ones in theirs.
    """
    steps = -(-len(hidden) // others)
    rounds = -(-steps * own // len(labelled))
    again = [labelled[torch.randperm(len(labelled), generator=generator)] for _ in range(rounds)]
    pieces = zip(torch.cat(again)[: steps * own].split(own), hidden.split(others), strict=True)
    return torch.cat([torch.cat(pair) for pair in pieces])
