"""Small state as JSON: what optimisers, schedules and records hold beside tensors, and back without loss."""

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
    """Whether `encode` can write a value: numbers, text, None, and lists, tuples and mappings of them."""
    if isinstance(value, Mapping):
        return all(is_encodable(each) for pair in value.items() for each in pair)
    if isinstance(value, list | tuple):
        return all(is_encodable(each) for each in value)
    return value is None or isinstance(value, str | int | float) or (isinstance(value, Tensor) and value.numel() == 1)


def encode(value: Any) -> Any:
    """Return a value as JSON can hold it: tagged where JSON would lose the kind."""
    if isinstance(value, Tensor):
        return {_TAG: "tensor", "of": value.item(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {_TAG: "mapping", "of": [[encode(key), encode(each)] for key, each in value.items()]}
    if isinstance(value, tuple):
        return {_TAG: "tuple", "of": [encode(each) for each in value]}
    if isinstance(value, list):
        return [encode(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {_TAG: "float", "of": repr(value)}
    return value


def decode(value: Any) -> Any:
    """Return what `encode` was given."""
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    kind, of = value[_TAG], value["of"]
    if kind == "tensor":
        return torch.tensor(of, dtype=getattr(torch, value["dtype"]))
    if kind == "mapping":
        return {decode(key): decode(each) for key, each in of}
    return float(of) if kind == "float" else tuple(decode(each) for each in of)


def canonical(value: Any) -> bytes:
    """Return JSON with one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(value).hexdigest()
