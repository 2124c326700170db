"""Which training data keep their labels: a few of each class, the others -1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.data.binarise import derived_seed
from pvae.errors import InputError

__all__ = ["HIDDEN", "check_labels", "with_labels"]

#: the value of ``y`` where a datum has a label that is not known
HIDDEN = -1


def check_labels(labels: Any) -> None:
    """Raise InputError for what is no number of labels."""
    if labels is not None:
        require_whole(labels, "labels", least=0, advice="It is the number of training data that keep their label.")


def with_labels(batch: Batch, count: int, *, seed: int) -> Batch:
    """Return data of which `count` keep their label ``y``, as many of each class as of any other; -1 hides the rest.

    Where a class has too few, the others have the more. Labels that are -1 already stay so.

    Args:
        batch: training data.
        count: how many keep their label; 0 for none.
        seed: decides which.

    Raises:
        InputError: if there are no labels, they are no whole numbers, or `count` is above the labels that there are
            or, but for 0, below the number of classes.
    """
    y = _whole_labels(batch, count)
    known = (y != HIDDEN).nonzero().ravel().cpu()
    classes = torch.unique(y.cpu()[known])
    if count > len(known):
        raise InputError(f"labels={count} is more than the {len(known)} training data that have a label; ask for less.")
    if 0 < count < len(classes):
        raise InputError(f"labels={count} is less than the {len(classes)} classes; keep one of each class at least.")
    kept = _balanced(y.cpu()[known], known, count, classes, seed).to(y.device)
    hidden = torch.full_like(y, HIDDEN)
    hidden[kept] = y[kept]
    return batch.replace(y=hidden)


def _whole_labels(batch: Batch, count: int) -> Tensor:
    if "y" not in batch:
        raise InputError(f"labels={count} keeps the labels of that many data, and these have none: add a field y.")
    y = batch["y"]
    if y.is_floating_point() or y.dim() != 1:
        came = f"{str(y.dtype).removeprefix('torch.')} of shape {tuple(y.shape)}"
        raise InputError(f"labels={count} needs one whole number y per datum, its class; got {came}.")
    return y


def _balanced(y: Tensor, positions: Tensor, count: int, classes: Tensor, seed: int) -> Tensor:
    """Positions of `count` labels: the first of each class in random order, the second of each, and so on."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "labels"))
    order = torch.randperm(len(y), generator=generator)
    turn = torch.randperm(len(classes), generator=generator)  # who comes first where the count does not come out even
    round_, place = torch.zeros(len(y), dtype=torch.long), torch.zeros(len(y), dtype=torch.long)
    for index, each in enumerate(classes):
        own = y[order] == each
        round_[own], place[own] = torch.arange(int(own.sum())), turn[index]
    return positions[order[torch.argsort(round_ * len(classes) + place)[:count]]]
