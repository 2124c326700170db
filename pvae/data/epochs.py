"""Minibatches of one epoch, in an order that needs no state to come back to."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.data.binarise import derived_seed
from pvae.data.masks import Mask
from pvae.data.strata import interleaved, labelled_per_batch

__all__ = ["minibatches", "permutation", "steps_of_epoch"]


def permutation(size: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order of the data in one epoch, shape (size,), on the CPU; it depends on these alone."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "epoch", epoch))
    return torch.randperm(require_whole(size, "size", least=0), generator=generator)


def minibatches(
    batch: Batch,
    size: int,
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    dynamic: bool = False,
    mask: Mask | None = None,
    labelled: float = 0.0,
) -> Iterator[Batch]:
    """Return the minibatches of one epoch, gathered on the device where the data are.

    The order is a pure function of seed and epoch, so a resumed run passes ``start`` and gets the same rest.

    Args:
        batch: all training data.
        size: data per minibatch; the last one has what is left over.
        seed: the run's seed.
        epoch: number of the epoch.
        start: how many minibatches to leave out at the beginning; nothing is drawn for them.
        dynamic: draw ``x`` from Bernoulli(x) at each use, by the device's global generator.
        mask: leaves entries out of the field ``mask`` at each use, by the device's global generator.
        labelled: least part of each minibatch that is taken from the data with a label, ``y`` from 0 on, where some
            have one and others not: these come again and again, while the others come once an epoch. 0 takes all as
            they fall.

    Raises:
        InputError: if size is below 1 or start below 0.
    """
    size, start = require_whole(size, "size"), require_whole(start, "start", least=0)
    return _gather(batch, _order(batch, size, seed, epoch, labelled), size, start, dynamic, mask)


def steps_of_epoch(batch: Batch, size: int, labelled: float = 0.0) -> int:
    """Return the number of minibatches of one epoch; see `minibatches`."""
    size = require_whole(size, "size")
    own = labelled_per_batch(batch, size, labelled)
    return -(-int((batch["y"] < 0).sum()) // (size - own)) if own else -(-batch.size // size)


def _order(batch: Batch, size: int, seed: int, epoch: int, labelled: float) -> Tensor:
    """Positions of the data of one epoch: each `size` of them are a minibatch."""
    own = labelled_per_batch(batch, size, labelled)
    if own == 0:
        return permutation(batch.size, seed=seed, epoch=epoch)
    known = batch["y"].cpu() >= 0
    hidden = (~known).nonzero().ravel()
    order = hidden[permutation(len(hidden), seed=seed, epoch=epoch)]
    generator = torch.Generator().manual_seed(derived_seed(seed, "labelled", epoch))
    return interleaved(known.nonzero().ravel(), order, own, size - own, generator)


def _gather(batch: Batch, order: Tensor, size: int, start: int, dynamic: bool, mask: Mask | None) -> Iterator[Batch]:
    if start * size >= len(order):
        return  # a split of nothing is one empty chunk
    # One transfer per epoch; a chunk of it is a view, so that a step costs one gather per field.
    for chosen in order[start * size :].to(batch.device).split(size):
        taken = batch.take(chosen)
        if mask is not None:
            taken = taken.replace(mask=mask.in_training(taken.x) * taken.get("mask", 1.0))
        yield taken.replace(x=_drawn(taken.x)) if dynamic else taken


def _drawn(x: Tensor) -> Tensor:
    # The law of torch.bernoulli(x) in 0.6 of its time on a CPU, where that exceeds a small network's step.
    uniform = torch.empty_like(x).uniform_()
    return torch.lt(uniform, x, out=uniform)
