"""Splits: the training, validation and test data of one run, and everything that says how they came about."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.data.binarise import are_grey, binarised, check_binarise
from pvae.data.labels import with_labels
from pvae.data.masks import Mask, left_out, make_mask
from pvae.errors import InputError

__all__ = ["Splits", "digest"]


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test data, fixed by a seed.

    Attributes:
        train: the training data; grey still where ``train_dynamic``.
        validation: the validation data, or None.
        test: the test data, or None.
        name: the set's name, or the file's.
        data_shape: shape of one datum as a picture or event, such as (28, 28), however ``x`` is stored.
        binarise: how ``x`` was binarised; ``"auto"`` until a likelihood settles it.
        seed: what splits and draws were made from.
        checksum: SHA-256 of the data and of how they were split, before any binarisation.
        notes: lines for a person on what was done to the data.
        mask: which entries of ``x`` are left out at random, with all settings; the training split's field ``mask``
            does not have the draw yet.
        labels: how many training data kept their label where the others' were hidden; else None.
    """

    train: Batch
    validation: Batch | None
    test: Batch | None
    name: str
    data_shape: tuple[int, ...]
    binarise: str = "none"
    seed: int = 0
    checksum: str = ""
    notes: tuple[str, ...] = ()
    mask: str = "none"
    labels: int | None = None

    @property
    def train_dynamic(self) -> bool:
        """Whether ``minibatches`` of the training split must draw: ``minibatches(..., dynamic=...)``."""
        return self.binarise == "dynamic"

    @property
    def train_mask(self) -> Mask | None:
        """What ``minibatches`` of the training split must leave out: ``minibatches(..., mask=...)``."""
        return None if self.mask == "none" else make_mask(self.mask, self.data_shape)

    @property
    def parts(self) -> dict[str, Batch | None]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def classes(self) -> int | None:
        """Number of values that a label takes, 0 to classes - 1; None without whole numbers as labels."""
        labels = [part["y"] for part in self.parts.values() if part is not None and "y" in part]
        if not labels or any(each.is_floating_point() or each.dim() > 1 for each in labels):
            return None
        return max(int(each.max()) for each in labels) + 1 or None

    @property
    def condition_shape(self) -> tuple[int, ...] | None:
        """Shape of one condition c; None without."""
        return tuple(self.train["c"].shape[1:]) if "c" in self.train else None

    @property
    def data_size(self) -> int:
        """Number of training data."""
        return self.train.size

    def binarised(self, how: str) -> Splits:
        """Return the splits with ``x`` binarised (see ``load_data``); ``"auto"`` changes nothing yet.

        Raises:
            InputError: if ``how`` is unknown or a value of ``x`` is outside [0, 1].
        """
        check_binarise(how)
        if how == "auto":
            return self
        drawn = self._each(lambda part, batch: binarised(batch, how, part, self.seed))
        return replace(drawn, binarise=how)

    def for_likelihood(self, bernoulli: bool) -> Splits:
        """Settle ``"auto"``: static, with a note, where a Bernoulli likelihood meets grey data; else none."""
        if self.binarise != "auto":
            return self
        if not (bernoulli and are_grey(part.x for part in self.parts.values() if part is not None)):
            return replace(self, binarise="none")
        note = (
            f"grey data binarised statically for a Bernoulli likelihood (seed {self.seed}); "
            "binarise 'none' keeps grey levels, for another likelihood"
        )
        return replace(self.binarised("static"), notes=(*self.notes, note))

    def masked(self, how: str) -> Splits:
        """Return the splits with the field ``mask``, which leaves entries of ``x`` out (see ``load_data``).

        Raises:
            InputError: if ``how`` is no mask for these data, or their own mask has another shape than ``x``.
        """
        if how == "none":
            return self
        mask = make_mask(how, self.data_shape)
        return replace(self._each(lambda part, batch: left_out(batch, mask, part, self.seed)), mask=mask.text)

    def with_labels(self, count: int | None) -> Splits:
        """Return the splits with `count` labels left in the training data (see ``load_data``); None changes nothing.

        Raises:
            InputError: if that cannot be, or labels were hidden before.
        """
        if count is None:
            return self
        count = require_whole(count, "labels", least=0, advice="It is the number of training data that keep theirs.")
        if count == self.labels:
            return self
        if self.labels is not None:
            raise InputError(f"These data have {self.labels} labels left already; load them again for labels={count}.")
        checksum = hashlib.sha256(f"{self.checksum};labels:{count}".encode()).hexdigest()
        return replace(self, train=with_labels(self.train, count, seed=self.seed), labels=count, checksum=checksum)

    def to(self, device: torch.device | str) -> Splits:
        """Return the splits on ``device``."""
        return self._each(lambda part, batch: batch.to(device))

    def _each(self, change: Callable[[str, Batch], Batch]) -> Splits:
        return replace(
            self,
            train=change("train", self.train),
            validation=None if self.validation is None else change("validation", self.validation),
            test=None if self.test is None else change("test", self.test),
        )

    def summary(self) -> dict[str, Any]:
        """Return what a run records of its data, by name: how they were made, and facts of them."""
        return {
            "name": self.name,
            "checksum": self.checksum,
            "sizes": {name: part.size if part is not None else 0 for name, part in self.parts.items()},
            "binarise": self.binarise,
            "seed": self.seed,
            "data_shape": list(self.data_shape),
            **({} if self.mask == "none" else {"mask": self.mask}),
            **({} if self.classes is None else {"classes": self.classes}),
            **({} if self.labels is None else {"labels": self.labels}),
        }


def digest(arrays: Mapping[str, Tensor | np.ndarray]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        value = arrays[name]
        array = np.ascontiguousarray(value.cpu().numpy() if isinstance(value, Tensor) else value)
        state.update(f"{name}:{array.dtype}:{array.shape};".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.hexdigest()
