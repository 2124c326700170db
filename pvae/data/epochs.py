"""Minibatches of one epoch, in an order that depends only on seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.data.binarise import derived_seed
from pvae.data.labelled_batches import interleaved, labelled_per_batch
from pvae.data.masks import Mask
from pvae.data.streams.row_batch import RowBatch
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError

__all__ = ["minibatches", "permutation", "steps_of_epoch"]


def permutation(size: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order of the data in one epoch.

    Args:
        size: number of data.
        seed: seed of the run.
        epoch: number of the epoch.

    Returns:
        Positions of the data, shape (size,), on the CPU. They depend only on the arguments.
    """
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
    keeps_order: bool = False,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """Return the minibatches of one epoch, gathered on the device of the data.

    The order is a function of only seed and epoch, so a resumed run passes ``start`` and gets the same remaining
    batches. A loader of PyTorch makes its batches itself, and an iterable data set keeps its order.

    Args:
        batch: all training data, in memory or stored.
        size: data per minibatch; the last minibatch has the remainder. A loader has its own size.
        seed: seed of the run.
        epoch: number of the epoch.
        start: number of minibatches to leave out at the beginning; no random numbers are drawn for them.
        dynamic: whether to draw ``x`` from Bernoulli(x) at each use, by the global generator of the device.
        mask: the entries to leave out of the field ``mask`` at each use, drawn by the global generator of the device;
            None leaves out none.
        labelled: smallest share of labelled data (``y`` from 0 on) in each minibatch, if only some data have a label.
            Labelled data are then used several times per epoch, other data once. 0 draws all data at random.
        keeps_order: whether the data keep their order, for programs with parameters that belong to positions in the
            batch.
        share: ``(rank, count)``; the data at the positions rank, rank + count, ... of each minibatch are gathered, or
            the first datum if there are none. (0, 1) gathers all.

    Raises:
        InputError: if `size` is below 1 or `start` below 0, or a share of a source that makes its own batches is
            requested.
    """
    size, start = require_whole(size, "size"), require_whole(start, "start", least=0)
    own = batch.own_batches(size, seed=seed, epoch=epoch, start=start) if isinstance(batch, StoredBatch) else None
    if own is not None:
        if share != (0, 1):
            raise InputError(
                "Batches that a loader or an iterable data set makes cannot be shared by processes. Give arrays, files "
                "or an indexed data set to pvae.load_data."
            )
        return _drawn(own, dynamic, mask)
    order = torch.arange(batch.size) if keeps_order else _order(batch, size, seed, epoch, labelled)
    if isinstance(batch, RowBatch):
        own_seed = (
            derived_seed(seed, "process", *share) if share[0] else seed
        )  # the draws differ between processes, but the order does not
        rows = batch.batches(_pieces(order, size, start, share), seed=own_seed, epoch=epoch, start=start)
        return _drawn(rows, dynamic, mask)
    # There is one transfer per epoch; a part of it is a view, so a step needs one gather per field.
    pieces = _pieces(order.to(batch.device), size, start, share)
    return _drawn(map(batch.take, pieces), dynamic, mask)


def steps_of_epoch(batch: Batch, size: int, labelled: float = 0.0) -> int | None:
    """Return the number of minibatches of one epoch; None if it is not known, as for an iterable data set.

    Args:
        batch: the data.
        size: number of data in a minibatch, as for `minibatches`.
        labelled: share of labelled data in each minibatch, as for `minibatches`.

    Raises:
        InputError: if `size` is below 1.
    """
    size = require_whole(size, "size")
    if batch.known_size is None:
        return None
    if isinstance(batch, StoredBatch) and batch.own_batch_size is not None:
        return batch.own_steps()
    labelled_count = labelled_per_batch(batch, size, labelled)
    if labelled_count == 0:
        return -(-batch.size // size)
    return -(-int((batch["y"] < 0).sum()) // (size - labelled_count))


def _order(batch: Batch, size: int, seed: int, epoch: int, labelled: float) -> Tensor:
    """Return the positions of the data of one epoch; each run of `size` positions is a minibatch."""
    labelled_count = labelled_per_batch(batch, size, labelled)
    if labelled_count == 0:
        order = batch.order(seed, epoch) if isinstance(batch, RowBatch) else None
        return permutation(batch.size, seed=seed, epoch=epoch) if order is None else order
    known = batch["y"].cpu() >= 0
    hidden = (~known).nonzero().ravel()
    hidden = hidden[permutation(len(hidden), seed=seed, epoch=epoch)]
    generator = torch.Generator().manual_seed(derived_seed(seed, "labelled", epoch))
    return interleaved(known.nonzero().ravel(), hidden, labelled_count, size - labelled_count, generator)


def _pieces(order: Tensor, size: int, start: int, share: tuple[int, int]) -> list[Tensor]:
    """Return the positions of a share of each minibatch from `start` on."""
    if start * size >= len(order):
        return []  # torch.split of an empty tensor would give one empty minibatch
    rank, count = share
    pieces = order[start * size :].split(size)
    if count == 1:
        return list(pieces)
    return [piece[rank::count] if rank < len(piece) else piece[:1] for piece in pieces]


def _drawn(batches: Iterator[Batch], dynamic: bool, mask: Mask | None) -> Iterator[Batch]:
    """Yield minibatches with the draws of each use."""
    for minibatch in batches:
        if mask is not None:
            minibatch = minibatch.replace(mask=mask.in_training(minibatch.x) * minibatch.get("mask", 1.0))
        yield minibatch.replace(x=_bernoulli(minibatch.x)) if dynamic else minibatch


def _bernoulli(x: Tensor) -> Tensor:
    # The same distribution as torch.bernoulli(x), in 0.6 of the time on a CPU, which matters for small networks.
    uniform = torch.empty_like(x).uniform_()
    return torch.lt(uniform, x, out=uniform)
