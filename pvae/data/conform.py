"""Bring data into the form of earlier data: their columns in the same order, their labels with the same numbers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.data.labels import HIDDEN, without_labels
from pvae.data.raw_data import RawData
from pvae.data.schema import Schema
from pvae.data.splits import Splits
from pvae.data.tables.table_options import TableOptions
from pvae.errors import InputError

__all__ = ["conformed", "in_order_of", "options_like"]


def options_like(options: TableOptions, like: Schema | None) -> TableOptions:
    """Return the options of a table, completed by the options with which earlier data were read.

    Args:
        options: the options that the user gave.
        like: the schema of the earlier data.
    """
    if like is None:
        return options
    own = ("separator", "header")  # another file may have another format
    names = [name for name in like.options if name not in own and not getattr(options, name)]
    recorded = {name: like.options[name] for name in names}
    return replace(
        options,
        **recorded,
        recorded=tuple(recorded),
        known_label=like.label or None,
        known_values=like.categories,
        ignores_label=like.ignores_labels,
    )


def in_order_of(raw: RawData, like: Schema) -> RawData:
    """Return data with the features of earlier data, in the same order.

    Args:
        raw: the data as read.
        like: the schema of the earlier data.

    Raises:
        InputError: if the data have other columns, or are a table without names although the earlier data had names.
    """
    if not like.columns or (not raw.schema.columns and not raw.schema.rows):
        return raw
    positions = _positions(raw.name, raw.schema.columns, like)
    if positions == list(range(len(positions))):
        return raw
    fields = {name: value[:, positions] if _is_features(name) else value for name, value in raw.fields.items()}
    note = f"columns are put in the order of the training: {', '.join(like.columns[:6])}" + (
        ", ..." if len(like.columns) > 6 else ""
    )
    schema = raw.schema.changed(columns=like.columns)
    return replace(raw, fields=fields, schema=schema, notes=(*raw.notes, note))


def _is_features(name: str) -> bool:
    return name in ("x", "mask") or name.startswith(("x_", "mask_"))


def _positions(name: str, columns: tuple[str, ...], like: Schema) -> list[int]:
    """Return the position in the new data of each column of the earlier data."""
    shown = ", ".join(like.columns[:8]) + (", ..." if len(like.columns) > 8 else "")
    if not columns:
        raise InputError(
            f"{name} has no names of columns, but the model was trained on columns with names: {shown}. Give a file "
            "whose first line names the columns."
        )
    missing = [column for column in like.columns if column not in columns]
    further = [column for column in columns if column not in like.columns]
    if missing or further:
        parts = [f"{column!r} is missing" for column in missing[:3]]
        parts += [f"{column!r} was not in training" for column in further[:3]]
        raise InputError(
            f"{name} has other columns than the data of the training: {'; '.join(parts)}. Needed are {shown}; choose "
            "them with columns= (--columns)."
        )
    return [columns.index(column) for column in like.columns]


def conformed(splits: Splits, like: Schema) -> Splits:
    """Return splits that were loaded without ``like=``, in the form of earlier data.

    Args:
        splits: the data.
        like: the schema of the earlier data.

    Raises:
        InputError: if the columns differ, a label is not one of the earlier labels, or x was scaled in another way.
    """
    if like.ignores_labels:
        splits = replace(splits.map_data(without_labels), schema=splits.schema.changed(classes=like.classes))
    own = splits.schema
    if own.columns and like.columns and own.columns != like.columns:
        positions = _positions(splits.name, own.columns, like)
        splits = splits.map_data(partial(_permuted, positions=positions))
        scaling = None if own.scaling is None else own.scaling.permuted(positions)
        splits = replace(splits, schema=splits.schema.changed(columns=like.columns, scaling=scaling))
    if own.classes != like.classes and (own.classes or like.classes):
        splits = splits.map_data(partial(_relabelled, own=own, like=like))
        splits = replace(splits, schema=splits.schema.changed(classes=like.classes))
    return _rescaled(splits, like)


def _permuted(batch: Batch, positions: list[int]) -> Batch:
    fields: dict[str, Tensor] = {"x": batch.x[:, positions]}
    if "mask" in batch and batch["mask"].shape == batch.x.shape:
        fields["mask"] = batch["mask"][:, positions]
    return batch.replace(**fields)


def _relabelled(batch: Batch, own: Schema, like: Schema) -> Batch:
    y = batch.get("y")
    if y is None or y.is_floating_point() or y.dim() != 1:
        return batch
    given = {int(label) for label in y.unique().tolist()} - {HIDDEN}
    values = {label: own.classes[label] if own.classes else label for label in given}
    known: dict[Any, int] = {value: number for number, value in enumerate(like.classes)}
    if not like.classes:
        known = {value: value for value in values.values() if isinstance(value, int)}
    strange = [value for value in values.values() if value not in known]
    if strange:
        shown = ", ".join(map(str, like.classes[:8])) or "whole numbers from 0 on"
        raise InputError(f"The label {strange[0]!r} is not one of the labels of the training: {shown}. Correct it.")
    table = torch.full((max(given, default=0) + 2,), HIDDEN, dtype=torch.long, device=y.device)
    for label, value in values.items():
        table[label] = known[value]
    return batch.replace(y=table[y])  # the last entry stands for the hidden label -1


def _rescaled(splits: Splits, like: Schema) -> Splits:
    """Return splits with the scaling of earlier data, if they have none yet."""
    if splits.schema.scaling == like.scaling:
        return splits
    if splits.schema.scaling is not None:
        raise InputError(
            f"{splits.name} was scaled by its own values, but the training used another scaling. Load the data "
            "with like= and the splits of the training."
        )
    return splits if like.scaling is None else splits.scaled_by(like.scaling)
