"""The class `Splits`: training, validation and test data, with a record of how they were made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.data.binarise import are_grey, binarised, check_binarise
from pvae.data.descriptions import describe_splits, description_text, splits_table
from pvae.data.labels import check_labels, with_labels
from pvae.data.masks import Mask, left_out, make_mask
from pvae.data.scaling import check_scale, find_scaling, scaled_batch
from pvae.data.schema import Scaling, Schema
from pvae.data.streams.looks import first_datum, x_in_parts
from pvae.data.streams.placement import placed
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError

__all__ = ["Splits"]


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test data, which depend on a seed.

    Attributes:
        train: the training data. With ``train_dynamic``, ``x`` has grey levels and is drawn from them at every use.
        validation: the validation data, or None.
        test: the test data, or None.
        name: name of the data set or of the file.
        data_shape: shape of one datum as a picture or event, such as (28, 28), for any shape in which ``x`` is stored.
        binarise: how ``x`` was binarised; ``"auto"`` until `for_likelihood` decides.
        seed: the seed that decides the splits and all draws.
        checksum: SHA-256 of the data and of how they were split, before any binarisation.
        notes: lines of text about changes of the data.
        mask: text of the mask that leaves entries of ``x`` out at random, with all settings, or ``"none"``. The
            training split's field ``mask`` does not include the draw.
        labels: number of training data that keep their label, if other labels were hidden; else None.
        schema: names, types and labels of the data, how they were read, and how x was scaled.
        positions: for each split that was drawn, the number of each datum in the source, from 0 on; shape (data,).
        row_names: the name and the values, (rows,), of the first column that names the rows of a table, or None.
        path: the absolute path of the file or the folder that the data were read from; "" for other data.

    Example:
        >>> import pvae, torch
        >>> data = pvae.load_data({"x": torch.eye(4).repeat(10, 1), "y": torch.arange(40) % 4})
        >>> data.train.size, data.validation.size, data.test.size
        (32, 4, 4)
        >>> data.data_shape, sorted(data.test)
        ((4,), ['x', 'y'])
    """

    train: Batch
    # With `Batch | None`, type checkers reject data.test["x"]; with `Any` they accept it, and know `Batch`.
    validation: Batch | Any
    test: Batch | Any
    name: str
    data_shape: tuple[int, ...]
    binarise: str = "none"
    seed: int = 0
    checksum: str = ""
    notes: tuple[str, ...] = ()
    mask: str = "none"
    labels: int | None = None
    schema: Schema = field(default_factory=Schema)
    positions: Mapping[str, Tensor] = field(default_factory=dict)
    row_names: tuple[str, np.ndarray] | None = None
    path: str = ""

    @property
    def train_dynamic(self) -> bool:
        """Whether `minibatches` of the training split draws ``x`` at every use; its argument ``dynamic``."""
        return self.binarise == "dynamic"

    @property
    def train_mask(self) -> Mask | None:
        """The mask that `minibatches` of the training split draws at every use; its argument ``mask``."""
        return None if self.mask == "none" else make_mask(self.mask, self.data_shape)

    @property
    def parts(self) -> dict[str, Batch | None]:
        """The three splits by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def classes(self) -> int | None:
        """The number of classes: of the labels that were numbered, else one more than the largest label ``y``.

        It is None if labels are not whole numbers.
        """
        parts = [part for part in self.parts.values() if part is not None and "y" in part]
        stored = [part.classes for part in parts if isinstance(part, StoredBatch)]
        if stored:
            return len(self.schema.classes) or max((count for count in stored if count), default=None)
        labels = [part["y"] for part in parts]
        if not labels or any(y.is_floating_point() or y.dim() > 1 for y in labels):
            return None
        return len(self.schema.classes) or max(int(y.max()) for y in labels) + 1 or None

    @property
    def condition_shape(self) -> tuple[int, ...] | None:
        """The shape of one condition ``c``; None if the data have no conditions."""
        return tuple(first_datum(self.train)["c"].shape[1:]) if "c" in self.train else None

    @property
    def field_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The name and the shape of one datum of each field besides x."""
        first = first_datum(self.train)
        return tuple((name, tuple(first[name].shape[1:])) for name in first if name != "x")

    @property
    def data_size(self) -> int:
        """The number of training data."""
        return self.train.size

    def binarised(self, how: str) -> Splits:
        """Return the splits with ``x`` binarised.

        Args:
            how: the option ``binarise`` of `load_data`; ``"auto"`` changes nothing.

        Raises:
            InputError: if `how` is unknown, or a value of ``x`` is outside [0, 1].
        """
        check_binarise(how)
        if how == "auto":
            return self
        drawn = self.map_parts(lambda part, batch: _binarised(batch, how, part, self.seed))
        return replace(drawn, binarise=how)

    def for_likelihood(self, bernoulli: bool) -> Splits:
        """Return the splits with ``binarise="auto"`` decided.

        Args:
            bernoulli: whether the likelihood is Bernoulli. Grey data are then binarised statically, with a note; all
                other data are not binarised.
        """
        if self.binarise != "auto":
            return self
        known = [part for part in self.parts.values() if part is not None]
        if not (bernoulli and are_grey(x for part in known for x in x_in_parts(part))):
            return replace(self, binarise="none")
        if isinstance(self.train, StoredBatch):
            note = (
                "grey data binarised at every use for a Bernoulli likelihood, because they are not kept in memory; "
                "binarise 'none' keeps grey levels, for another likelihood"
            )
            return replace(self.binarised("dynamic"), notes=(*self.notes, note))
        note = (
            f"grey data binarised statically for a Bernoulli likelihood (seed {self.seed}); "
            "binarise 'none' keeps grey levels, for another likelihood"
        )
        return replace(self.binarised("static"), notes=(*self.notes, note))

    def masked(self, how: str) -> Splits:
        """Return the splits with a field ``mask`` that leaves entries of ``x`` out.

        Args:
            how: the option ``mask`` of `load_data`; ``"none"`` changes nothing.

        Raises:
            InputError: if `how` is not a mask for these data, or the data have a mask of another shape than ``x``.
        """
        if how == "none":
            return self
        mask = make_mask(how, self.data_shape)
        masked = self.map_parts(lambda part, batch: _left_out(batch, mask, part, self.seed))
        return replace(masked, mask=mask.text)

    def with_labels(self, count: int | None) -> Splits:
        """Return the splits with the labels of all but `count` training data hidden.

        Args:
            count: the option ``labels`` of `load_data`; None changes nothing.

        Raises:
            InputError: if there are fewer labels, or labels were hidden before.
        """
        count = check_labels(count)
        if count is None or count == self.labels:
            return self
        if self.labels is not None:
            raise InputError(f"These data have {self.labels} labels left already. Load them again for labels={count}.")
        if isinstance(self.train, StoredBatch):
            raise InputError(
                f"labels={count} chooses among the labels of all training data, but these data are read in parts. Load "
                "them with resident=True, or hide labels (-1) in the data."
            )
        checksum = hashlib.sha256(f"{self.checksum};labels:{count}".encode()).hexdigest()
        return replace(self, train=with_labels(self.train, count, seed=self.seed), labels=count, checksum=checksum)

    def scaled(self, kind: str) -> Splits:
        """Return the splits with each feature of x scaled by the training data.

        Args:
            kind: ``"standardise"`` (mean 0, standard deviation 1) or ``"minmax"`` (from 0 to 1).

        Raises:
            InputError: for another kind, or if x was scaled or binarised before.
        """
        return self.scaled_by(find_scaling(check_scale(False, kind), self.train))

    def scaled_by(self, scaling: Scaling) -> Splits:
        """Return the splits with x scaled, in float64; the schema has the scaling, for converting outputs back.

        Args:
            scaling: the shift and scale of each feature.

        Raises:
            InputError: if x was scaled or binarised before, or has another number of features.
        """
        if self.schema.scaling is not None or self.binarise not in ("auto", "none"):
            done = "binarised" if self.schema.scaling is None else "scaled"
            raise InputError(f"These data are {done} already; load them again to scale them.")
        text = f"{self.checksum};scaled:{scaling.kind}:{scaling.shift}:{scaling.scale}"
        kind = "standardised" if scaling.kind == "standardise" else "scaled to [0, 1]"
        return replace(
            self.map_data(partial(scaled_batch, scaling=scaling)),
            schema=self.schema.changed(scaling=scaling),
            checksum=hashlib.sha256(text.encode()).hexdigest(),
            notes=(*self.notes, f"x is {kind} by the training data; densities are those of the scaled values"),
        )

    def describe(self) -> str:
        """Return the rows, columns, types, labels and splits of the data, and how they were read, in lines."""
        return description_text(describe_splits(self))

    def _repr_html_(self) -> str:
        return splits_table(self.summary(), len(self.schema.columns), self.notes).to_html()

    def to(self, device: torch.device | str) -> Splits:
        """Return the splits with their tensors on ``device``; data that do not fit are copied batch by batch."""
        return self.map_parts(lambda part, batch: placed(batch, device))

    def map_parts(self, change: Callable[[str, Batch], Batch]) -> Splits:
        """Return the splits with each part changed.

        Args:
            change: a function of the name of a part (``"train"``, ``"validation"`` or ``"test"``) and its data.
        """
        return replace(
            self,
            train=change("train", self.train),
            validation=None if self.validation is None else change("validation", self.validation),
            test=None if self.test is None else change("test", self.test),
        )

    def map_data(self, change: Callable[[Batch], Batch]) -> Splits:
        """Return the splits with each datum changed; data that are read in parts are changed when they are read.

        Args:
            change: a function of a batch that changes each datum separately.
        """
        return self.map_parts(
            lambda _, batch: batch.changed(change) if isinstance(batch, StoredBatch) else change(batch)
        )

    def summary(self) -> dict[str, Any]:
        """Return the facts about the data that a run records, by name; sizes that are not known are left out."""
        sizes = {name: 0 if part is None else part.known_size for name, part in self.parts.items()}
        return {
            "name": self.name,
            "checksum": self.checksum,
            "sizes": {name: size for name, size in sizes.items() if size is not None},
            "binarise": self.binarise,
            "seed": self.seed,
            "data_shape": list(self.data_shape),
            **({} if self.mask == "none" else {"mask": self.mask}),
            **({} if self.classes is None else {"classes": self.classes}),
            **({} if self.labels is None else {"labels": self.labels}),
            **({} if self.schema == Schema() else {"schema": self.schema.to_record()}),
        }


def _binarised(batch: Batch, how: str, part: str, seed: int) -> Batch:
    """Return one split binarised. Draws that are kept need memory; other draws are made when the data are read.

    Raises:
        InputError: as `binarised`, or if draws of training data would be kept although the data are read in parts.
    """
    if not isinstance(batch, StoredBatch) or how == "none":
        return binarised(batch, how, part, seed)
    if part != "train":
        return binarised(batch.resident(), how, part, seed)
    if how == "static":
        raise InputError(
            "binarise='static' draws all training data once and keeps the draws, but these data are read in parts. Use "
            "'dynamic', which draws at every use, or load the data with resident=True."
        )
    return batch.changed(partial(binarised, how=how, part=part, seed=seed))


def _left_out(batch: Batch, mask: Mask, part: str, seed: int) -> Batch:
    """Return one split with a mask, as `left_out`; the mask of training data is drawn at every use."""
    if not isinstance(batch, StoredBatch):
        return left_out(batch, mask, part, seed)
    if part != "train":
        return left_out(batch.resident(), mask, part, seed)
    return batch.changed(partial(left_out, mask=mask, part=part, seed=seed))
