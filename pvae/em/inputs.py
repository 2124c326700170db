"""What people pass in, checked: data as arrays or tensors, and initial parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data
from torch import Tensor

from pvae.em.base import Family, whitening_of
from pvae.em.row_sources import as_tensor
from pvae.errors import InputError

__all__ = ["Form", "initial", "read", "read_weights"]


@dataclass(frozen=True)
class Form:
    """How results are handed back: as NumPy arrays or as tensors, in which dtype and where."""

    tensors: bool
    dtype: torch.dtype
    device: torch.device

    def give(self, values: Tensor, dtype: torch.dtype | None = None) -> Any:
        """Return values in this form; `dtype` takes the place of its own."""
        values = values.to(self.dtype if dtype is None else dtype)
        return values.to(self.device) if self.tensors else values.cpu().numpy()


def read(estimator: Any, x: Any, *, reset: bool, least: int = 1) -> tuple[Tensor, Form]:
    """Return data as a tensor, (data, features), float32 or float64, that shares memory where it can.

    Args:
        estimator: keeps the number and names of the features.
        x: array-like or tensor.
        reset: the estimator is being fitted.
        least: fewest rows.

    Raises:
        InputError: for data that are not a table of real numbers, or have other features than the fitted ones.
    """
    if isinstance(x, Tensor):
        return _read_tensor(estimator, x, reset, least)
    try:
        array = validate_data(
            estimator,
            x,
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
            ensure_min_samples=least,
            reset=reset,
        )
    except ValueError as error:
        raise InputError(" ".join(str(error).split())) from error
    tensor = as_tensor(array)
    return tensor, Form(False, tensor.dtype, tensor.device)


def _read_tensor(estimator: Any, x: Tensor, reset: bool, least: int) -> tuple[Tensor, Form]:
    x = x.detach()
    if x.ndim != 2 or x.shape[1] == 0 or x.is_complex():
        raise InputError(f"X needs the shape (data, features) and real numbers; got {tuple(x.shape)} of {x.dtype}.")
    if len(x) < least:
        raise InputError(f"X has {len(x)} sample(s), while a minimum of {least} is required.")
    if reset:
        estimator.n_features_in_ = x.shape[1]
        estimator.__dict__.pop("feature_names_in_", None)
    elif estimator.n_features_in_ != x.shape[1]:
        raise InputError(
            f"X has {x.shape[1]} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input."
        )
    if x.dtype not in (torch.float32, torch.float64):
        x = x.to(torch.float32 if x.is_floating_point() else torch.float64)
    return x, Form(True, x.dtype, x.device)


def read_weights(weights: Any, count: int) -> Tensor | None:
    """Return sample weights as float64, (data,), or None.

    Raises:
        InputError: where they are not one finite, non-negative number for each datum, with one above 0.
    """
    if weights is None:
        return None
    if not isinstance(weights, Tensor):
        weights = np.asarray(weights, dtype=np.float64)
    found = as_tensor(weights).to(torch.float64)
    found = found.expand(count) if found.ndim == 0 else found
    if tuple(found.shape) != (count,):
        raise InputError(f"sample_weight needs the shape ({count},); got {tuple(found.shape)}.")
    wrong = (~(found >= 0) | found.isinf()).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"sample_weight needs finite numbers from 0 up; got {float(found[row]):g} in row {row}.")
    if not bool(found.sum() > 0):
        raise InputError("sample_weight needs a weight above zero; all are zero.")
    return found


def initial(
    family: Family, components: int, features: int, weights: Any, means: Any, precisions: Any
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return initial weights, means and whitening, each None where it is not given.

    Raises:
        InputError: for a wrong shape, weights that are no distribution, or precisions that are not positive.
    """
    weights = _shaped(weights, (components,), "weights")
    if weights is not None:
        _check_weights(weights)
    means = _shaped(means, (components, features), "means")
    name = f"{family.name} precision"
    precisions = _shaped(precisions, family.shape(components, features), name)
    if precisions is None:
        return weights, means, None
    _check_precisions(precisions, family, name)
    return weights, means, whitening_of(family, precisions)


def _shaped(values: Any, shape: tuple[int, ...], name: str) -> Tensor | None:
    if values is None:
        return None
    values = values if isinstance(values, Tensor) else np.asarray(values, dtype=np.float64)
    found = as_tensor(values).to(torch.float64)
    if tuple(found.shape) != shape:
        raise InputError(f"The parameter '{name}' should have the shape of {shape}, but got {tuple(found.shape)}")
    if not bool(found.isfinite().all()):
        raise InputError(f"The parameter '{name}' should be finite, but holds NaN or infinity.")
    return found


def _check_weights(weights: Tensor) -> None:
    if bool((weights < 0).any() | (weights > 1).any()):
        # The two numbers stand in scikit-learn's order, which its own tests look for.
        raise InputError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{float(weights.min()):.5f}, min value {float(weights.max()):.5f}"
        )
    if abs(float(weights.sum()) - 1) > 1e-6:
        raise InputError(
            f"The parameter 'weights' should be normalized, but got sum(weights) = {float(weights.sum()):.5f}"
        )


def _check_precisions(precisions: Tensor, family: Family, name: str) -> None:
    if family.name in ("diag", "spherical"):
        if not bool((precisions > 0).all()):
            raise InputError(f"'{name}' should be positive")
        return
    symmetric = torch.allclose(precisions, precisions.mT)
    if not symmetric or not bool((torch.linalg.eigvalsh(precisions) > 0).all()):
        raise InputError(f"'{name}' should be symmetric, positive-definite")
