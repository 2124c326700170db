"""A mixture in a safetensors file, with its settings and results as JSON in the header. Nothing is unpickled."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from pvae.errors import InputError
from pvae.files import is_disk_full, write_bytes
from pvae.memory import require_memory
from pvae.outside_files import check_form, read_limited, read_start, require_regular

__all__ = ["plain_settings", "read_mixture_file", "write_mixture_file"]

#: The key of the header that holds the settings and results.
_KEY = "pvae.GaussianMixture"
_LARGEST_FILE = 1 << 34
_LARGEST_HEADER = 1 << 25
_NUMBER = (int, float)
_FORM = {
    "settings": {"*": (bool, int, float, str, type(None))},
    "dtype": str,
    "by_hand": bool,
    "fitted_components": int,
    "feature_names?": [str],
    "results": {
        "converged_?": bool,
        "n_iter_?": int,
        "lower_bound_?": _NUMBER,
        "lower_bounds_?": [_NUMBER],
        "log_likelihoods_?": [_NUMBER],
        "status_?": [str],
        "merged_?": [[int]],
        "split_merges_?": [{"merged": [int], "split": int, "gain": _NUMBER}],
    },
}


def plain_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the parameters of an estimator as values of JSON, and those that are arrays as float64.

    A random generator cannot be written: its parameter becomes None, with a warning.

    Args:
        settings: the parameters by name.
    """
    plain: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, value in settings.items():
        value = value.item() if isinstance(value, np.generic) else value
        if value is None or isinstance(value, bool | int | float | str):
            plain[name] = value
        elif name == "device":
            plain[name] = str(value)
        elif name == "dtype":
            plain[name] = str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else np.dtype(value).name
        elif name == "random_state":
            plain[name] = None
            warnings.warn(
                "The file gets random_state=None: a random generator cannot be written. Set random_state to a number "
                "first to keep it.",
                RuntimeWarning,
                stacklevel=4,
            )
        else:
            value = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
            arrays[name] = np.array(value, dtype=np.float64)
    return plain, arrays


def write_mixture_file(path: Path, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Write a mixture; a file of that name is replaced.

    Args:
        path: the file; its folder exists.
        arrays: float64 arrays by name.
        record: settings and results, in the form that `read_mixture_file` checks.

    Raises:
        InputError: if the file cannot be written.
        OSError: if the disk is full.
    """
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {_KEY: json.dumps(record)})
    try:
        write_bytes(path, content)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise InputError(f"{path} cannot be written ({error.strerror}). Name a file in an existing folder.") from error


def read_mixture_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the record of a file that `write_mixture_file` wrote.

    Raises:
        InputError: if it is missing, damaged or another kind of file.
    """
    size = require_regular(path)
    header_size = int.from_bytes(read_start(path, 8), "little")
    if not 2 <= header_size <= min(_LARGEST_HEADER, size - 8):
        raise InputError(f"{path} is no saved mixture, or is damaged (its header has {header_size} bytes).")
    require_memory(3 * size, "cpu", f"To read {path}", "Use a computer with more memory.")
    content = read_limited(path, _LARGEST_FILE)
    try:
        arrays = load(content)
        header = json.loads(content[8 : 8 + header_size])
        record = json.loads(header.get("__metadata__", {}).get(_KEY, "null"))
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is no saved mixture, or is damaged ({' '.join(str(error).split())[:120]})."
        ) from error
    if record is None:
        raise InputError(f"{path} is no saved mixture; GaussianMixture.save and pvae em --out write one.")
    check_form(path, record, _FORM)
    wrong = [name for name, array in arrays.items() if array.dtype != np.float64]
    if wrong:
        raise InputError(f"{path} is damaged: {wrong[0]} needs float64 numbers; it has {arrays[wrong[0]].dtype}.")
    return arrays, record
