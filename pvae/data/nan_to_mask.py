"""Missing values: NaN becomes 0, and the fields ``mask`` of x and ``w_mask`` of w mark the observed entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from pvae.errors import InputError

__all__ = ["check_missing", "masked", "with_gaps"]


_PARTS = ("train", "validation", "test")
_UNCHANGED = ("c", "index", "mask", "y")


def check_missing(missing: str) -> None:
    """Check the option ``missing`` of `load_data`.

    Raises:
        InputError: if it is neither ``"error"`` nor ``"mask"``.
    """
    if missing not in ("error", "mask"):
        raise InputError(f"missing needs 'error' or 'mask'; got {missing!r}.")


def masked(fields: Mapping[str, Any], *, only_x: bool = False) -> dict[str, Any]:
    """Return fields in which each NaN of ``x`` is 0, with a ``mask`` of 1 for observed and 0 for missing entries.

    A field of another name, such as ``w``, gets the field ``w_mask`` in the same way; labels ``y``, conditions ``c``
    and the fields ``mask`` and ``index`` do not change. If one split has missing values of a field, every split gets
    its mask. An entry that is missing in a given mask stays missing.

    Args:
        fields: arrays by name; ``x_test``, ``mask_test`` and similar fields belong to other splits.
        only_x: whether only x is changed.
    """
    result = dict(fields)
    for stem in dict.fromkeys(_stem_and_part(name)[0] for name in fields):
        if stem == "x" or not (only_x or stem in _UNCHANGED or stem.endswith("_mask")):
            _mask_field(result, stem)
    return result


def _stem_and_part(name: Any) -> tuple[str, str]:
    """Return ``("w", "_test")`` for the name ``w_test``, and ``("w", "")`` for ``w``."""
    stem, _, suffix = str(name).rpartition("_")
    return (stem, f"_{suffix}") if stem and suffix in _PARTS else (str(name), "")


def _mask_field(fields: dict[str, Any], stem: str) -> None:
    """Put 0 in place of each NaN of one field in all splits, and add its mask, if there is any NaN."""
    arrays = {name: _array(fields[name]) for name in fields if _stem_and_part(name)[0] == stem}
    missing = {name: np.isnan(array) for name, array in arrays.items() if array.dtype.kind == "f"}
    if not any(entries.any() for entries in missing.values()):
        return
    for name, array in arrays.items():
        part = _stem_and_part(name)[1]
        mask_name = ("mask" if stem == "x" else f"{stem}_mask") + part
        entries = missing.get(name, np.zeros(array.shape, dtype=bool))
        mask = _array(fields[mask_name]) if mask_name in fields else np.ones_like(entries)
        if mask.ndim == 1:  # one number for each datum
            mask = mask.reshape(-1, *[1] * (array.ndim - 1))
        fields[name] = np.where(entries, 0, array)
        fields[mask_name] = np.where(entries, 0, np.broadcast_to(mask, entries.shape).astype(np.float32))


def with_gaps(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return values as objects, with None where they are missing; shapes (data,)."""
    objects = values.astype(object)
    objects[missing] = None
    return objects


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
