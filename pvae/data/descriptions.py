"""Descriptions of data: rows, columns, types, labels, missing values, splits, and how they were read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.data.schema import Schema
from pvae.data.streams.looks import first_datum
from pvae.shown_tables import ShownTable

__all__ = ["describe_splits", "description_text", "splits_table"]

#: Number of columns and classes that a text shows.
_SHOWN = 30


class _HasParts(Protocol):
    @property
    def name(self) -> str:
        """Name of the data."""

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""

    @property
    def schema(self) -> Schema:
        """Names, types and labels."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines about changes of the data."""

    @property
    def parts(self) -> Mapping[str, Batch | None]:
        """The splits by name."""

    @property
    def classes(self) -> int | None:
        """The number of classes."""


def describe_splits(splits: _HasParts) -> dict[str, Any]:
    """Return a description of splits by name, of values for JSON.

    Args:
        splits: the data.
    """
    parts = {name: part for name, part in splits.parts.items() if part is not None}
    schema, first = splits.schema, first_datum(parts["train"])
    totals = _Totals(schema, has_columns=first.x.dim() == 2 and first.x.shape[1] <= 10_000)
    sizes = {name: sum(totals.add(chunk) for chunk in part.chunks()) for name, part in parts.items()}
    record: dict[str, Any] = {
        "name": splits.name,
        "read": schema.account,
        "rows": schema.rows or sum(sizes.values()),
        "splits": sizes,
        "shape": list(splits.data_shape),
        "fields": {
            name: {"shape": list(tensor.shape[1:]), "type": str(tensor.dtype).removeprefix("torch.")}
            for name, tensor in first.items()
        },
    }
    if totals.has_columns:
        record["columns"] = totals.columns()
    record["missing"] = sum(schema.missing.values()) or totals.missing
    record["constant"] = [
        column["name"] for column in record.get("columns", []) if column["smallest"] == column["largest"]
    ]
    if splits.classes is not None:
        record["label"] = {"column": schema.label, "classes": _classes(totals.labels, schema, splits.classes)}
    if schema.scaling is not None:
        record["scaling"] = schema.scaling.kind
    record["notes"] = list(splits.notes)
    return record


class _Totals:
    """The extremes and counts of data that are read in parts.

    Args:
        schema: names, types and scaling of the data.
        has_columns: whether each feature is described.
    """

    def __init__(self, schema: Schema, *, has_columns: bool) -> None:
        self.schema, self.has_columns = schema, has_columns
        self.missing = 0
        self.labels: Counter[int] = Counter()
        self.low: Any = torch.inf
        self.high: Any = -torch.inf
        self.missing_in_column: Any = 0

    def add(self, part: Batch) -> int:
        """Add a part of the data; return its number of data."""
        mask = _mask(part)
        self.missing += int((~mask).sum())
        y = part.get("y")
        if y is not None and not y.is_floating_point() and y.dim() == 1:
            self.labels.update(y.tolist())
        if self.has_columns:
            x = part.x.double() if self.schema.scaling is None else self.schema.scaling.original(part.x.double())
            self.low = x.masked_fill(~mask, torch.inf).amin(0).clamp(max=self.low)
            self.high = x.masked_fill(~mask, -torch.inf).amax(0).clamp(min=self.high)
            self.missing_in_column = self.missing_in_column + (~mask).sum(0)
        return part.size

    def columns(self) -> list[dict[str, Any]]:
        """Return name, type, range and number of missing values of each feature, in the units of the data."""
        low, high = self.low.tolist(), self.high.tolist()
        names = self.schema.columns or tuple(f"column {number}" for number in range(1, len(low) + 1))
        return [
            {
                "name": name,
                "type": self.schema.types.get(name, _type_of(name, self.schema)),
                "smallest": low[number] if low[number] < math.inf else None,
                "largest": high[number] if high[number] > -math.inf else None,
                "missing": int(self.missing_in_column[number]),
            }
            for number, name in enumerate(names)
        ]


def _type_of(name: str, schema: Schema) -> str:
    return "category" if name.partition("=")[0] in schema.categories else "numbers"


def _mask(part: Batch) -> Tensor:
    """Return which entries of x are observed, shape of x."""
    mask = part.get("mask")
    if mask is None or mask.shape != part.x.shape:
        return torch.ones_like(part.x, dtype=torch.bool)
    return mask != 0


def _classes(labels: Counter[int], schema: Schema, count: int) -> dict[str, int]:
    """Return the number of data of each class by its name, and of hidden labels."""
    classes = dict(zip(schema.class_names(count), (labels[number] for number in range(count)), strict=False))
    hidden = sum(number for label, number in labels.items() if label < 0)
    return {**classes, **({"(hidden)": hidden} if hidden else {})}


def description_text(record: Mapping[str, Any]) -> str:
    """Return a description as lines of text.

    Args:
        record: the result of `describe_splits`.
    """
    lines = [f"{record['name']}: {record['read']}" if record["read"] else record["name"]]
    sizes = ", ".join(f"{count} {name}" for name, count in record["splits"].items())
    shape = " x ".join(map(str, record["shape"])) or "one number"
    lines.append(f"{record['rows']} data, each {shape}; splits: {sizes}")
    fields = [
        f"{name} ({field['type']}{', ' + ' x '.join(map(str, field['shape'])) if field['shape'] else ''})"
        for name, field in record["fields"].items()
    ]
    lines.append(f"fields: {', '.join(fields)}")
    lines += _column_lines(record.get("columns", []))
    lines.append(f"missing values: {record['missing']}")
    if record["constant"]:
        lines.append(f"constant columns: {', '.join(record['constant'][:_SHOWN])}")
    if "label" in record:
        classes = record["label"]["classes"]
        shown = ", ".join(f"{name}: {count}" for name, count in list(classes.items())[:_SHOWN])
        column = f" {record['label']['column']!r}" if record["label"]["column"] else ""
        lines.append(f"label{column} of {len(classes)} classes: {shown}" + (", ..." if len(classes) > _SHOWN else ""))
    if "scaling" in record:
        lines.append(f"scaling of x: {record['scaling']}; the columns are shown in their own units")
    return "\n".join([*lines, *(f"note: {note}" for note in record["notes"])])


def splits_table(facts: Mapping[str, Any], columns: int, notes: Sequence[str]) -> ShownTable:
    """Return the facts about splits as a table for a notebook, without reading the data.

    Args:
        facts: the result of `Splits.summary`.
        columns: the number of columns with names.
        notes: lines of text about changes of the data.
    """
    shape = " x ".join(map(str, facts["data_shape"])) or "one number"
    rows = [[name, str(count)] for name, count in facts["sizes"].items() if count]
    rows.append(["shape of x", shape + (f", {columns} named columns" if columns else "")])
    rows += [[name, str(facts[name])] for name in ("classes", "labels", "binarise", "mask", "seed") if name in facts]
    return ShownTable([], rows, f"Data: {facts['name']}", [f"note: {note}" for note in notes])


def _column_lines(columns: list[dict[str, Any]]) -> list[str]:
    width = max((len(column["name"]) for column in columns[:_SHOWN]), default=0)
    lines = []
    for column in columns[:_SHOWN]:
        extent = "no value" if column["smallest"] is None else f"{column['smallest']:.6g} to {column['largest']:.6g}"
        missing = f", {column['missing']} missing" if column["missing"] else ""
        lines.append(f"  {column['name']:<{width}}  {column['type']}, {extent}{missing}")
    return [*lines, f"  ... and {len(columns) - _SHOWN} more columns"] if len(columns) > _SHOWN else lines
