"""The estimator's own parameters, checked."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pvae.em.ascent import Rules
from pvae.em.base import Family
from pvae.em.families import FAMILIES
from pvae.em.frame import Frame
from pvae.em.starts import STARTS
from pvae.em.updates import Prior
from pvae.errors import InputError

__all__ = ["check_settings", "device_of", "dtype_of", "rules_of"]

#: Share of each feature's variance that `reg_covar="relative"` adds.
RELATIVE = 1e-6


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    def right(value: Any) -> bool:
        return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least

    return right, f"a whole number from {least} up"


def _number(least: float, *others: Any) -> tuple[Callable[[Any], bool], str]:
    def right(value: Any) -> bool:
        if isinstance(value, str) or value is None:
            return value in others
        return not isinstance(value, bool) and isinstance(value, Real) and least <= float(value) < float("inf")

    return right, " or ".join([f"a number from {least:g} up", *map(repr, others)])


def _one_of(*names: Any) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and value in names, f"one of {', '.join(map(repr, names))}"


def _flag() -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, bool | np.bool_), "True or False"


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n_components": _whole(1),
    "covariance_type": _one_of(*FAMILIES),
    "tol": _number(0),
    "reg_covar": _number(0, "relative"),
    "max_iter": _whole(0),
    "n_init": _whole(1),
    "init_params": _one_of(*STARTS),
    "warm_start": _flag(),
    "verbose": (lambda value: isinstance(value, bool) or _whole(0)[0](value), "a whole number from 0 up"),
    "verbose_interval": _whole(1),
    "tol_relative": _number(0, None),
    "empty": _one_of("keep", "reseed"),
    "missing": _one_of("error", "marginalise"),
    "distributed": _flag(),
    "merge": (lambda value: value is None or (_number(0)[0](value) and 0 < value < 1), "None or a number in (0, 1)"),
    "split_merge": _whole(0),
    "weight_concentration_prior": _number(1, None),
    "degrees_of_freedom_prior": _number(0, None),
}


def check_settings(settings: dict[str, Any]) -> None:
    """Raise InputError for the first parameter that cannot be used; say what it needs and what came."""
    for name, (right, needed) in CHECKS.items():
        if not right(settings[name]):
            raise InputError(f"The {name!r} parameter of GaussianMixture must be {needed}. Got {settings[name]!r}.")


def device_of(device: Any, default: torch.device) -> torch.device:
    """Return the device that is asked for, or the data's own where none is.

    Raises:
        InputError: if there is no such device.
    """
    if device is None:
        return default
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device needs a name such as 'cpu' or 'cuda'; got {device!r}.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={device!r} needs a CUDA device, and there is none here; use device='cpu'.")
    return found


def dtype_of(dtype: Any, default: torch.dtype) -> torch.dtype:
    """Return float32 or float64 as asked for by name, by NumPy or by torch; the data's own where none is."""
    if dtype is None:
        return default
    name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else None
    try:
        name = name or np.dtype(dtype).name
    except TypeError:
        name = repr(dtype)
    found = {"float32": torch.float32, "float64": torch.float64}.get(name)
    if found is None:
        raise InputError(f"dtype needs 'float32' or 'float64'; got {name}.")
    return found


def rules_of(settings: dict[str, Any], family: Family, frame: Frame) -> Rules:
    """Return how EM runs, in the coordinates of a frame."""
    return Rules(
        tol=float(settings["tol"]),
        tol_relative=None if settings["tol_relative"] is None else float(settings["tol_relative"]),
        max_iter=int(settings["max_iter"]),
        regularisation=regularisation_of(settings["reg_covar"], frame),
        prior=_prior(settings, family, frame),
        reseed=settings["empty"] == "reseed",
    )


def regularisation_of(amount: float | str, frame: Frame) -> Tensor:
    """Return what is added to each variance in the frame, (features,)."""
    if isinstance(amount, str):
        return torch.full_like(frame.scale, RELATIVE)
    return float(amount) / frame.scale.square()


def _prior(settings: dict[str, Any], family: Family, frame: Frame) -> Prior:
    concentration = settings["weight_concentration_prior"]
    concentration = 1.0 if concentration is None else float(concentration)
    if settings["covariance_prior"] is None:
        return Prior(concentration)
    features = len(frame.scale)
    scale = _scale_matrix(settings["covariance_prior"], features).to(frame.scale.device)
    degrees = settings["degrees_of_freedom_prior"]
    degrees = float(features if degrees is None else degrees)
    if degrees <= features - 1:
        raise InputError(f"degrees_of_freedom_prior needs more than {features - 1} for this data; got {degrees:g}.")
    return Prior(concentration, scale / frame.scale.unsqueeze(1) / frame.scale, degrees)


def _scale_matrix(given: Any, features: int) -> Tensor:
    values = torch.as_tensor(np.asarray(given, dtype=np.float64) if not isinstance(given, Tensor) else given).double()
    if values.ndim < 2:
        if values.ndim == 1 and len(values) != features:
            values = values.new_empty(0, 0)
        else:
            values = torch.diag(values.expand(features))
    symmetric = values.shape == (features, features) and torch.allclose(values, values.mT)
    if not symmetric or not bool((torch.linalg.eigvalsh(values) > 0).all()):
        raise InputError(
            f"covariance_prior needs a positive number, ({features},) positive numbers or a positive definite matrix "
            f"({features}, {features}); got shape {tuple(np.shape(given))}."
        )
    return values
