"""`Schema`: names, types and labels of the data, how they were read, and how they were scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.errors import InputError

__all__ = ["Scaling", "Schema"]


@dataclass(frozen=True)
class Scaling:
    """The scaled x is (x - shift) / scale, for each feature.

    Attributes:
        kind: ``"standardise"`` or ``"minmax"``.
        shift: the mean, or the smallest value, of each feature of the training data, in a row.
        scale: the standard deviation, or the range, of each feature; 1 for a constant feature.
    """

    kind: str
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def scaled(self, x: Tensor) -> Tensor:
        """Return x in the units of the training, in its shape (data, ...)."""
        shift, scale = self._as_tensors(x)
        return (x - shift) / scale

    def original(self, x: Tensor) -> Tensor:
        """Return scaled values, such as draws of a model, in the units of the data.

        Args:
            x: values of whole data, shape (..., features) or (...) + the shape of one datum.
        """
        shift, scale = self._as_tensors(x)
        return x * scale + shift

    @property
    def log_scale(self) -> float:
        """The sum of log(scale), in nats: log p(x) in the units of the data is log p(scaled x) minus this sum."""
        return float(np.log(self.scale).sum())

    def permuted(self, positions: Sequence[int]) -> Scaling:
        """Return the scaling of features in another order.

        The first feature is the one at the first position, and so on.
        """
        shift, scale = (tuple(each[position] for position in positions) for each in (self.shift, self.scale))
        return replace(self, shift=shift, scale=scale)

    def _as_tensors(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape, size = list(x.shape), 1
        trailing: list[int] = []
        while shape and size < len(self.shift):
            trailing.insert(0, shape.pop())
            size *= trailing[0]
        if size != len(self.shift):
            raise InputError(
                f"The scaling is for data with {len(self.shift)} values each; got values of shape {tuple(x.shape)}."
            )
        target = (len(self.shift),) if not trailing else tuple(trailing)
        shift, scale = (torch.tensor(each, dtype=torch.float64, device=x.device) for each in (self.shift, self.scale))
        dtype = x.dtype if x.is_floating_point() else torch.float64
        return shift.reshape(target).to(dtype), scale.reshape(target).to(dtype)


@dataclass(frozen=True)
class Schema:
    """The properties of the data besides their values.

    Attributes:
        account: one line about how the data were read; "" for data sets with a name.
        columns: the names of the features of x, in order; () if they have none.
        types: the type of each column that was read and does not hold real numbers, by its name.
        label: the name of the column of y, "" if it has none.
        classes: the original value of each label y, in order; () if y has the original values.
        categories: for each column that became one feature per value, its values.
        missing: the number of missing values, by the name of the column.
        rows: the number of rows that were read, 0 if unknown.
        scaling: how x was scaled, or None.
        channels: the option ``channels``, if it was given.
        options: the options of tables and of missing values that were given.
        ignores_labels: whether labels of data in this form are left out, because they are not used.
    """

    account: str = ""
    columns: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    label: str = ""
    classes: tuple[Any, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    scaling: Scaling | None = None
    channels: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    ignores_labels: bool = False

    def to_record(self) -> dict[str, Any]:
        """Return the schema as values of TOML or JSON, without default values."""
        record: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if not value:
                continue
            if each.name == "scaling":
                record["scaling"] = {"kind": value.kind, "shift": list(value.shift), "scale": list(value.scale)}
            elif each.name == "classes":
                record["classes"] = [_plain(label) for label in value]
            elif isinstance(value, Mapping):
                record[each.name] = {key: list(v) if isinstance(v, tuple) else v for key, v in value.items()}
            else:
                record[each.name] = list(value) if isinstance(value, tuple) else value
        return record

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Schema:
        """Return the schema of a record that `to_record` made.

        Raises:
            InputError: if the record is damaged.
        """
        try:
            known = {each.name: record[each.name] for each in fields(cls) if each.name in record}
            for name in ("columns", "classes"):
                if name in known:
                    known[name] = tuple(known[name])
            for name in ("categories", "options"):
                if name in known:
                    known[name] = {key: tuple(v) if isinstance(v, list) else v for key, v in known[name].items()}
            if "scaling" in known:
                scaling = known["scaling"]
                known["scaling"] = Scaling(str(scaling["kind"]), tuple(scaling["shift"]), tuple(scaling["scale"]))
            return cls(**known)
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"The record of the data's schema is damaged ({error}).") from error

    def changed(self, **values: Any) -> Schema:
        """Return the schema with some values replaced."""
        return replace(self, **values)

    def class_names(self, count: int) -> list[str]:
        """Return the names of `count` labels: their original values, or their numbers."""
        names: Sequence[Any] = self.classes or range(count)
        return [str(name) for name in names][:count]

    def named(self, labels: Tensor) -> Tensor | np.ndarray:
        """Return labels, (data,), by the names of their classes; unchanged if the classes have no names.

        Args:
            labels: numbers from 0 on, and -1 for a hidden label.
        """
        if not self.classes or labels.dim() != 1 or int(labels.max()) >= len(self.classes):
            return labels
        names = [*self.class_names(len(self.classes)), "hidden"]
        return np.array([names[int(label)] for label in labels])


def _plain(value: Any) -> Any:
    """Return a label as a value of TOML: text, a whole number, a number or a truth value."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, str | int | float | bool) else str(value)
