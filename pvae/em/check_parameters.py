"""Checks of the parameters of `GaussianMixture`, and the device and dtype that they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pvae.accelerators import KINDS, count_devices, device_words
from pvae.checks import is_number, is_whole
from pvae.em.covariances.families import FAMILIES
from pvae.em.initialisation.initial_statistics import INITIALISERS
from pvae.errors import InputError
from pvae.products import MATMULS

__all__ = ["check_parameters", "find_device", "find_dtype"]


@dataclass(frozen=True)
class _Check:
    """A condition on the value of a parameter.

    Attributes:
        is_valid: whether a value satisfies the condition.
        requirement: the condition in words.
    """

    is_valid: Callable[[Any], bool]
    requirement: str


def _is_whole(value: Any, least: int) -> bool:
    return is_whole(value) and value >= least


def _is_number(value: Any, least: float) -> bool:
    return is_number(value) and least <= value < float("inf")


def _whole(least: int) -> _Check:
    return _Check(lambda value: _is_whole(value, least), f"a whole number from {least} up")


def _number(least: float, *alternatives: str | None) -> _Check:
    def is_valid(value: Any) -> bool:
        if isinstance(value, str) or value is None:
            return value in alternatives
        return _is_number(value, least)

    return _Check(is_valid, " or ".join([f"a number from {least:g} up", *map(repr, alternatives)]))


def _one_of(*names: str) -> _Check:
    return _Check(lambda value: isinstance(value, str) and value in names, f"one of {', '.join(map(repr, names))}")


def _flag() -> _Check:
    return _Check(lambda value: isinstance(value, bool | np.bool_), "True or False")


CHECKS: dict[str, _Check] = {
    "n_components": _whole(1),
    "covariance_type": _one_of(*FAMILIES),
    "tol": _number(0),
    "reg_covar": _number(0, "relative"),
    "max_iter": _whole(0),
    "n_init": _whole(1),
    "init_params": _one_of(*INITIALISERS),
    "warm_start": _flag(),
    "verbose": _Check(lambda value: isinstance(value, bool) or _is_whole(value, 0), "a whole number from 0 up"),
    "verbose_interval": _whole(1),
    "tol_relative": _number(0, None),
    "empty": _one_of("keep", "reseed"),
    "missing": _one_of("error", "marginalise"),
    "distributed": _flag(),
    "matmul": _one_of(*MATMULS),
    "merge": _Check(
        lambda value: value is None or (_is_number(value, 0) and 0 < value < 1), "None or a number in (0, 1)"
    ),
    "split_merge": _whole(0),
    "weight_concentration_prior": _number(1, None),
    "degrees_of_freedom_prior": _number(0, None),
}


def check_parameters(parameters: dict[str, Any]) -> None:
    """Check the parameters of `GaussianMixture`.

    Args:
        parameters: by name, as `get_params` returns them.

    Raises:
        InputError: for the first invalid parameter.
    """
    for name, check in CHECKS.items():
        if not check.is_valid(parameters[name]):
            raise InputError(
                f"The {name!r} parameter of GaussianMixture must be {check.requirement}. Got {parameters[name]!r}."
            )


def find_device(device: Any, default: torch.device) -> torch.device:
    """Return a device by its name.

    Args:
        device: a name or a ``torch.device``; None for the default.
        default: usually the device of the data.

    Raises:
        InputError: if there is no such device.
    """
    if device is None:
        return default
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device needs a name such as 'cpu' or 'cuda'; got {device!r}.") from error
    if named.type == "mps":
        raise InputError("EM adds in 64-bit numbers, which device='mps' does not have. Use device='cpu'.")
    if named.type in KINDS and not count_devices(named.type):
        raise InputError(
            f"device={device!r} needs {device_words(named.type)}; this machine has none. Use device='cpu'."
        )
    return named


def find_dtype(dtype: Any, default: torch.dtype) -> torch.dtype:
    """Return float32 or float64.

    Args:
        dtype: a name, a NumPy dtype or a ``torch.dtype``; None for the default.
        default: usually the dtype of the data.

    Raises:
        InputError: for another dtype.
    """
    if dtype is None:
        return default
    name = _dtype_name(dtype)
    supported = {"float32": torch.float32, "float64": torch.float64}
    if name not in supported:
        raise InputError(f"dtype needs 'float32' or 'float64'; got {name}.")
    return supported[name]


def _dtype_name(dtype: Any) -> str:
    if isinstance(dtype, torch.dtype):
        return str(dtype).removeprefix("torch.")
    try:
        return np.dtype(dtype).name
    except TypeError:
        return repr(dtype)
