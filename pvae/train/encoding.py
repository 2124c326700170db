"""JSON for the plain values of optimisers, schedules and records; decoding returns the same values and types."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["canonical", "decode", "digest", "encode", "is_encodable"]

_TAG = "is"


def is_encodable(value: Any) -> bool:
    """Return whether `encode` accepts a value: numbers, text, None, and lists, tuples and mappings of them."""
    if isinstance(value, Mapping):
        return all(is_encodable(key) and is_encodable(element) for key, element in value.items())
    if isinstance(value, list | tuple):
        return all(is_encodable(element) for element in value)
    return value is None or isinstance(value, str | int | float) or (isinstance(value, Tensor) and value.numel() == 1)


def encode(value: Any) -> Any:
    """Return a plain value as JSON values, with a tag for each type that JSON does not have."""
    if isinstance(value, Tensor):
        return {_TAG: "tensor", "of": value.item(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {_TAG: "mapping", "of": [[encode(key), encode(element)] for key, element in value.items()]}
    if isinstance(value, tuple):
        return {_TAG: "tuple", "of": [encode(element) for element in value]}
    if isinstance(value, list):
        return [encode(element) for element in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {_TAG: "float", "of": repr(value)}
    return value


def decode(value: Any) -> Any:
    """Return the plain value that `encode` turned into JSON values."""
    if isinstance(value, list):
        return [decode(element) for element in value]
    if not isinstance(value, dict):
        return value
    kind, content = value[_TAG], value["of"]
    if kind == "tensor":
        return torch.tensor(content, dtype=getattr(torch, value["dtype"]))
    if kind == "mapping":
        return {decode(key): decode(element) for key, element in content}
    return float(content) if kind == "float" else tuple(decode(element) for element in content)


def canonical(value: Any) -> bytes:
    """Return JSON that is the same for equal values: keys are sorted, and there are no spaces and no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: bytes) -> str:
    """Return the SHA-256 checksum of bytes, in hexadecimal digits."""
    return hashlib.sha256(value).hexdigest()
