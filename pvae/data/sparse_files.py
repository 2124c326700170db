"""Read sparse matrices from the files of `scipy.sparse.save_npz`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pvae.errors import InputError

__all__ = ["is_sparse_file", "sparse_matrix"]

_COMPRESSED = frozenset({"indices", "indptr"})
#: The arrays of a file by the format of its matrix, beside ``format``, ``shape`` and ``data``.
_ARRAYS = {
    "csr": _COMPRESSED,
    "csc": _COMPRESSED,
    "bsr": _COMPRESSED,
    "coo": frozenset({"row", "col"}),
    "dia": frozenset({"offsets"}),
}


def is_sparse_file(arrays: Mapping[str, np.ndarray]) -> bool:
    """Return whether the arrays of an ``.npz`` file are those of one sparse matrix.

    Args:
        arrays: the arrays by name.
    """
    parts = _ARRAYS.get(_format_of(arrays))
    return parts is not None and {"shape", "data", *parts} <= arrays.keys() and "x" not in arrays


def _format_of(arrays: Mapping[str, np.ndarray]) -> str:
    name = arrays.get("format")
    if name is None or name.ndim or name.dtype.kind not in "SU":
        return ""
    text = name.item()
    return text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)


def sparse_matrix(path: Path, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return the sparse matrix that the arrays of a file describe.

    Args:
        path: the file, for the message.
        arrays: the arrays by name, of which `is_sparse_file` is true.

    Raises:
        InputError: if the arrays do not fit together.
    """
    from scipy import sparse

    kind = _format_of(arrays)
    try:
        shape = tuple(int(size) for size in arrays["shape"])
        if kind == "coo":
            matrix = sparse.coo_array((arrays["data"], (arrays["row"], arrays["col"])), shape=shape)
        elif kind == "dia":
            matrix = sparse.dia_array((arrays["data"], arrays["offsets"]), shape=shape)
        else:
            make = {"csr": sparse.csr_array, "csc": sparse.csc_array, "bsr": sparse.bsr_array}[kind]
            matrix = make((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
            matrix.check_format(full_check=True)  # an index outside of the matrix would be read from other memory
    except (IndexError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} does not hold a valid sparse matrix ({reason}). Write it again by scipy.sparse.save_npz."
        ) from error
    return matrix
