"""Binarisation: grey levels in [0, 1] become values in {0, 1}, drawn once, drawn at every use, or cut at one half."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.names import require_known

__all__ = ["BINARISATIONS", "are_grey", "binarised", "check_binarise", "derived_seed"]

BINARISATIONS = ("auto", "none", "static", "dynamic", "threshold")


def check_binarise(how: str) -> None:
    """Check the option ``binarise`` of `load_data`.

    Raises:
        InputError: if it is not one of `BINARISATIONS`.
    """
    require_known("binarise", how, BINARISATIONS)


def derived_seed(seed: int, *purpose: str | int) -> int:
    """Return a seed for one purpose, by hashing the seed and the purpose with SHA-256.

    Args:
        seed: the seed of the run or of the data.
        purpose: words and numbers that name the purpose; different purposes have different seeds.

    Returns:
        A number of 32 bits.
    """
    text = ":".join(str(part) for part in (int(seed), *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def are_grey(xs: Iterable[Tensor]) -> bool:
    """Return whether all values are in [0, 1] and some are strictly between 0 and 1."""
    between = False
    for x in xs:
        if ((x < 0) | (x > 1)).any():
            return False
        between = between or bool(((x > 0) & (x < 1)).any())
    return between


def binarised(batch: Batch, how: str, part: str, seed: int) -> Batch:
    """Return one split with ``x`` binarised.

    The test split is drawn in one call, on the CPU, by ``torch.bernoulli`` with a generator that is seeded by `seed`
    itself, so other programs can draw the same images. The other splits have derived seeds. ``"dynamic"`` leaves the
    training split grey, and `minibatches` draws it.

    Args:
        batch: the data of the split.
        how: ``"none"``, ``"static"``, ``"dynamic"`` or ``"threshold"``.
        part: ``"train"``, ``"validation"`` or ``"test"``.
        seed: the seed of the splits.

    Raises:
        InputError: if a value is outside [0, 1].
    """
    if how == "none":
        return batch
    _check_range(part, batch.x, how)
    if how == "dynamic" and part == "train":
        return batch
    if how == "threshold":
        return batch.replace(x=(batch.x > 0.5).to(batch.x.dtype))
    part_seed = seed if part == "test" else derived_seed(seed, "binarise", part)
    drawn = torch.bernoulli(batch.x.cpu(), generator=torch.Generator().manual_seed(part_seed))
    return batch.replace(x=drawn.to(batch.device))


def _check_range(name: str, x: Tensor, how: str) -> None:
    outside = (x < 0) | (x > 1)
    if outside.any():
        raise InputError(
            f"binarise={how!r} needs x in [0, 1]; the {name} split has {int(outside.sum())} values outside, "
            f"from {x.min():.3g} to {x.max():.3g}. Rescale x first, or use binarise='none'."
        )
