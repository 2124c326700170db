"""Hide labels of training data: some data of each class keep their label, the other data get -1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.data.binarise import derived_seed
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError

__all__ = ["HIDDEN", "check_labels", "with_labels", "without_labels"]

#: the value of ``y`` of a datum with a hidden label
HIDDEN = -1


def check_labels(labels: Any) -> int | None:
    """Return the option ``labels`` of `load_data` as a Python integer, or None.

    Raises:
        InputError: if it is neither None nor a whole number of at least 0.
    """
    if labels is None:
        return None
    return require_whole(labels, "labels", least=0, advice="It is the number of training data that keep their label.")


def without_labels(batch: Batch) -> Batch:
    """Return data without the field ``y``.

    Args:
        batch: data in memory or elsewhere.
    """
    if "y" not in batch:
        return batch
    if isinstance(batch, StoredBatch):
        return batch.changed(without_labels)
    return Batch(**{name: tensor for name, tensor in batch.items() if name != "y"})


def with_labels(batch: Batch, count: int, *, seed: int) -> Batch:
    """Return data of which `count` keep their label ``y``, with the same number for each class; other labels become -1.

    If a class has too few labelled data, the other classes keep more. Labels that are -1 already stay -1.

    Args:
        batch: training data.
        count: number of data that keep their label; 0 hides all labels.
        seed: decides which data keep their label.

    Raises:
        InputError: if there are no labels, or they are not whole numbers; if `count` is above the number of labels;
            or if it is above 0 and below the number of classes.
    """
    y = _whole_labels(batch, count)
    known = (y != HIDDEN).nonzero().ravel().cpu()
    classes = torch.unique(y.cpu()[known])
    if count > len(known):
        raise InputError(
            f"labels={count} is more than the {len(known)} training data that have a label. Give a smaller number."
        )
    if 0 < count < len(classes):
        raise InputError(f"labels={count} is less than the {len(classes)} classes; keep at least one of each class.")
    kept = _balanced(y.cpu()[known], known, count, classes, seed).to(y.device)
    hidden = torch.full_like(y, HIDDEN)
    hidden[kept] = y[kept]
    return batch.replace(y=hidden)


def _whole_labels(batch: Batch, count: int) -> Tensor:
    if "y" not in batch:
        raise InputError(f"labels={count} keeps the labels of that many data, but these data have none. Add a field y.")
    y = batch["y"]
    if y.is_floating_point() or y.dim() != 1:
        came = f"{str(y.dtype).removeprefix('torch.')} of shape {tuple(y.shape)}"
        raise InputError(f"labels={count} needs one whole number y per datum, its class; got {came}.")
    return y


def _balanced(y: Tensor, positions: Tensor, count: int, classes: Tensor, seed: int) -> Tensor:
    """Return the positions of `count` data: the first datum of each class in random order, then the second, and so on.

    Args:
        y: the known labels, shape (known,).
        positions: the position of each of these labels in the data, shape (known,).
        count: number of positions to return.
        classes: the different labels, shape (classes,).
        seed: decides the random orders.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "labels"))
    order = torch.randperm(len(y), generator=generator)
    # the order of the classes in a round decides which classes get one more if the count is not a multiple of their
    # number
    class_order = torch.randperm(len(classes), generator=generator)
    rounds, turns = torch.zeros(len(y), dtype=torch.long), torch.zeros(len(y), dtype=torch.long)
    for index, label in enumerate(classes):
        members = y[order] == label
        rounds[members] = torch.arange(int(members.sum()))
        turns[members] = class_order[index]
    return positions[order[torch.argsort(rounds * len(classes) + turns)[:count]]]
