"""Data for a trained model in the form of its training data, and its outputs in the form of the data."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.data import Schema, Splits, load_data
from pvae.data.labels import without_labels
from pvae.data.loading import is_path
from pvae.data.scaling import narrowed
from pvae.errors import InputError
from pvae.programs.usable_data import require_usable
from pvae.structures import is_structure

__all__ = ["RunForm", "data_for_run"]


@dataclass(frozen=True)
class RunForm:
    """The form of the training data that a run records.

    Attributes:
        record: the table ``data`` of its ``config.toml``.
        precision: ``"float32"`` or ``"float64"``, the precision of the training.
    """

    record: Mapping[str, Any]
    precision: str

    @property
    def schema(self) -> Schema:
        """The names, labels and scaling of the training data."""
        return Schema.from_record(self.record.get("schema", {}))

    @property
    def takes_mask(self) -> bool:
        """Whether the training data had a mask, so that missing values are allowed."""
        return "mask" in self.record["fields"] or self.record.get("mask", "none") != "none"

    @property
    def dtype(self) -> torch.dtype:
        """The type of x and of the parameters."""
        return torch.float64 if self.precision == "float64" else torch.float32

    def zeros(self, size: int) -> Batch:
        """Return `size` data of zeros in the shape of the training data, with all entries observed.

        Raises:
            InputError: if x was not a tensor in the training.
        """
        field = self.record["fields"]["x"]
        if field["dtype"] == "structure":
            raise InputError(
                "x was not a tensor in the training, so that its shape is not known. Use the model's programs."
            )
        dtype = self.dtype if "float" in field["dtype"] else getattr(torch, field["dtype"])
        return self.with_mask(Batch(x=torch.zeros(size, *field["shape"], dtype=dtype)))

    def with_mask(self, batch: Batch) -> Batch:
        """Return a batch with a mask if the training data had one; a batch without a mask gets ones."""
        if not self.takes_mask or "mask" in batch:
            return batch
        fields = self.record["fields"]
        shape = fields.get("mask", fields["x"])["shape"]
        # x may have another number of time steps than in the training
        size = batch.x.shape if shape == fields["x"]["shape"] else (batch.size, *shape)
        return batch.replace(mask=batch.x.new_ones(size))

    def require_shapes(self, batch: Batch) -> Batch:
        """Return a batch whose fields have no shape that broadcasts with the one of the training.

        Operations of torch repeat a dimension of size 1, so programs could run on such data and give wrong numbers. The
        first dimension of the sequences in x may have any size. Other shapes are refused by the programs, or are
        meant, such as flattened pictures, or pictures of another size for a network of convolutions.

        Args:
            batch: data in the form of the training data.

        Raises:
            InputError: with the field and both shapes.
        """
        recorded = self.record["fields"]
        for name, tensor in batch.items():
            field = recorded.get(name, {"dtype": "structure"})
            if field["dtype"] == "structure" or is_structure(tensor):
                continue
            shape, needed = tuple(tensor.shape[1:]), tuple(field["shape"])
            steps = int(name == "x" and "lengths" in recorded)
            if _may_broadcast(shape[steps:], needed[steps:]):
                raise InputError(
                    f"{name} needs data of the shape {needed}, as in the training of the run; got data of the "
                    f"shape {shape}. Give data with the same features."
                )
        return batch

    def in_units(self, x: Tensor) -> Tensor:
        """Return values of x in the units of the data, on the CPU."""
        scaling, x = self.schema.scaling, x.detach().cpu()
        return x if scaling is None else scaling.original(x.double())

    def outputs(self, x: Tensor, index: Any = None) -> Any:
        """Return values of x as a frame with the names of the columns, or unchanged if the data had no names.

        Args:
            x: shape (data, ...), in the units of the data.
            index: the names of the rows, or None.
        """
        columns = self.schema.columns
        return self.frame(x, columns, index) if x[:1].numel() in (0, len(columns)) else x

    def frame(self, values: Tensor, columns: Sequence[str], index: Any = None) -> Any:
        """Return a frame if the training data had names of columns; otherwise the values, shape (data, columns)."""
        if not self.schema.columns:
            return values
        import pandas as pd

        return pd.DataFrame(values.reshape(len(values), -1).numpy(), columns=list(columns), index=index)


def _may_broadcast(shape: Sequence[int], needed: Sequence[int]) -> bool:
    """Return whether torch may repeat data of one shape where data of another shape are needed."""
    if len(shape) != len(needed):
        return math.prod(shape) != math.prod(needed) or math.prod(shape) == 1
    return any((size == 1) != (other == 1) for size, other in zip(shape, needed, strict=True))


def data_for_run(
    form: RunForm, data: Any, split: str, *, missing: bool = False, labels: bool = True
) -> tuple[Batch, Batch, Any]:
    """Return data in the form of the training data of a run.

    Args:
        form: the training data.
        data: `Splits`, then `split` is used; a `Batch` in the units of the training; or anything that `load_data`
            accepts, and then all data are used in order.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        missing: whether missing values are allowed although the training had none.
        labels: whether the labels of the data are used; otherwise they are left out, and may have unknown values.

    Returns:
        The data for the model; the same data before they were binarised or made less precise; and the names of the
        rows, or None.

    Raises:
        InputError: if the data cannot be read, or have other columns or labels than the training data.
    """
    if isinstance(data, Batch):
        data = data if labels else without_labels(data)
        require_usable(data)
        batch = form.require_shapes(form.with_mask(data))
        return narrowed(batch, form.dtype), batch, None
    schema = form.schema if labels else form.schema.changed(ignores_labels=True)
    if isinstance(data, Splits):
        splits = load_data(data, like=schema) if schema != Schema() else data
    elif isinstance(data, str | os.PathLike) and not is_path(data):
        splits = load_data(data, like=schema)
    else:
        allowed = missing or form.takes_mask
        reading: dict[str, Any] = {"missing": schema.options.get("words", "mask")} if allowed else {}
        splits = load_data(
            data, binarise="none", validation=0, test=0, channels=schema.channels or "auto", like=schema, **reading
        )
        split = "train"
    splits, exact = _binarised(splits, form.record["binarise"]), splits
    part, exact_part = splits.parts.get(split), exact.parts.get(split)
    if part is None or exact_part is None:
        raise InputError(f"{splits.name} has no {split} split. Name another one with split=, or give a batch.")
    pandas = sys.modules.get("pandas")  # data can only be a frame if pandas is imported already; its import is slow
    index = data.index if pandas is not None and isinstance(data, pandas.DataFrame) else None
    part = form.require_shapes(form.with_mask(part))
    return narrowed(part, form.dtype), form.with_mask(exact_part), index


def _binarised(splits: Splits, how: str) -> Splits:
    """Return data binarised as in the training; a binarisation at every use is drawn once."""
    if how in ("auto", "none") or splits.binarise not in ("auto", "none"):
        return splits
    return splits.binarised("static" if how == "dynamic" else how)
