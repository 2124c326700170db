"""Missing values, NaN in what was read, become zeros and a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from pvae.errors import InputError

__all__ = ["check_missing", "masked"]


def check_missing(missing: str) -> None:
    """Raise InputError for what is no way to take missing values."""
    if missing not in ("error", "mask"):
        raise InputError(f"missing needs 'error' or 'mask'; got {missing!r}.")


def masked(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields in which each NaN of ``x`` is 0, and 0 in the ``mask`` that goes with it (1: observed).

    Where one split has missing values, all get a mask. A mask that is there already stays 0 where it is.
    """
    found = dict(fields)
    names = [name for name in found if name == "x" or (isinstance(name, str) and name.startswith("x_"))]
    arrays = {name: _array(found[name]) for name in names}
    absent = {name: np.isnan(array) for name, array in arrays.items() if array.dtype.kind == "f"}
    if not any(each.any() for each in absent.values()):
        return found
    for name, array in arrays.items():
        mask, holes = "mask" + name.removeprefix("x"), absent.get(name, np.zeros(array.shape, dtype=bool))
        given = _array(found[mask]) if mask in found else np.ones_like(holes)
        found[name] = np.where(holes, 0, array)
        found[mask] = np.where(holes, 0, np.broadcast_to(given, holes.shape).astype(np.float32))
    return found


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
