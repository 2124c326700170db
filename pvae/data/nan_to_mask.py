"""Missing values: NaN in ``x`` becomes 0, and the field ``mask`` says which entries are observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from pvae.errors import InputError

__all__ = ["check_missing", "masked", "with_gaps"]


def check_missing(missing: str) -> None:
    """Check the option ``missing`` of `load_data`.

    Raises:
        InputError: if it is neither ``"error"`` nor ``"mask"``.
    """
    if missing not in ("error", "mask"):
        raise InputError(f"missing needs 'error' or 'mask'; got {missing!r}.")


def masked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields in which each NaN of ``x`` is 0, with a ``mask`` of 1 for observed and 0 for missing entries.

    If one split has missing values, every split gets a mask. An entry that a given mask calls missing stays missing.

    Args:
        fields: arrays by name; ``x_test`` and the like belong to other splits, and so does ``mask_test``.
    """
    result = dict(fields)
    names = [name for name in result if name == "x" or (isinstance(name, str) and name.startswith("x_"))]
    arrays = {name: _array(result[name]) for name in names}
    missing = {name: np.isnan(array) for name, array in arrays.items() if array.dtype.kind == "f"}
    if not any(entries.any() for entries in missing.values()):
        return result
    for name, array in arrays.items():
        mask_name = "mask" + name.removeprefix("x")
        entries = missing.get(name, np.zeros(array.shape, dtype=bool))
        mask = _array(result[mask_name]) if mask_name in result else np.ones_like(entries)
        result[name] = np.where(entries, 0, array)
        result[mask_name] = np.where(entries, 0, np.broadcast_to(mask, entries.shape).astype(np.float32))
    return result


def with_gaps(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return values as objects, with None where they are missing; shapes (data,)."""
    objects = values.astype(object)
    objects[missing] = None
    return objects


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
