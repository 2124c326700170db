"""Reading and checking what users pass: data as arrays or tensors, sample weights, and initial parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data
from torch import Tensor

from pvae.em.base import CovarianceFamily, whitening_from_precisions
from pvae.em.rows.row_sources import as_tensor, nan_where_masked
from pvae.em.rows.value_checks import LARGEST
from pvae.errors import InputError
from pvae.forked_threads import require_usable_threads

__all__ = [
    "InitialParameters",
    "OutputFormat",
    "check_positive_definite",
    "check_weights",
    "read_data",
    "read_initial_parameters",
    "read_parameter",
    "read_sample_weight",
]


@dataclass(frozen=True)
class OutputFormat:
    """The format of results: NumPy arrays or tensors, dtype and device.

    Attributes:
        is_tensor: whether results are tensors; otherwise NumPy arrays.
        dtype: of the results.
        device: of the results, if they are tensors.
    """

    is_tensor: bool
    dtype: torch.dtype
    device: torch.device

    def convert(self, values: Tensor, dtype: torch.dtype | None = None) -> Any:
        """Return values in this format, in the same shape.

        Args:
            values: a tensor of any shape.
            dtype: of the result; None for the dtype of this format.
        """
        values = values.to(self.dtype if dtype is None else dtype)
        return values.to(self.device) if self.is_tensor else values.cpu().numpy()


@dataclass(frozen=True)
class InitialParameters:
    """Initial parameters that the user gave, in the units of the data, float64; None where none was given.

    Attributes:
        weights: (components,).
        means: (components, features).
        whitening: in the shape of the covariances.
    """

    weights: Tensor | None
    means: Tensor | None
    whitening: Tensor | None

    def to(self, device: torch.device) -> InitialParameters:
        """Return the parameters on a device."""
        moved = [None if values is None else values.to(device) for values in (self.weights, self.means, self.whitening)]
        return InitialParameters(*moved)


def read_data(estimator: Any, x: Any, *, reset: bool, min_rows: int = 1) -> tuple[Tensor, OutputFormat]:
    """Return data as a tensor, (rows, features), float32 or float64, which shares memory with `x` if possible.

    Args:
        estimator: keeps number and names of the features.
        x: array-like or tensor, (rows, features).
        reset: whether the estimator is being fitted: sets number and names of the features instead of checking them.
        min_rows: smallest number of rows.

    Returns:
        The data, and the format in which results are returned.

    Raises:
        InputError: for data that are not a table of real numbers, or differ in features from the fitted data.
    """
    require_usable_threads()
    if isinstance(x, Tensor):
        return _read_tensor(estimator, x, reset, min_rows)
    try:
        array = validate_data(
            estimator,
            nan_where_masked(x),
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
            ensure_min_samples=min_rows,
            reset=reset,
        )
    except ValueError as error:
        raise InputError(" ".join(str(error).split())) from error
    tensor = as_tensor(array)
    return tensor, OutputFormat(False, tensor.dtype, tensor.device)


def _read_tensor(estimator: Any, x: Tensor, reset: bool, min_rows: int) -> tuple[Tensor, OutputFormat]:
    x = x.detach()
    if x.ndim != 2 or x.shape[1] == 0 or x.is_complex():
        raise InputError(f"X needs the shape (data, features) and real numbers; got {tuple(x.shape)} of {x.dtype}.")
    if len(x) < min_rows:
        raise InputError(f"X has {len(x)} sample(s), while a minimum of {min_rows} is required.")
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
    return x, OutputFormat(True, x.dtype, x.device)


def read_sample_weight(sample_weight: Any, rows: int) -> Tensor | None:
    """Return sample weights, (rows,) float64, or None for 1 each.

    Args:
        sample_weight: array-like or tensor, (rows,), a number, or None.
        rows: number of rows.

    Raises:
        InputError: if they are not one finite, non-negative number for each row, or all are zero.
    """
    if sample_weight is None:
        return None
    weights = _as_double(sample_weight)
    weights = weights.expand(rows) if weights.ndim == 0 else weights
    if tuple(weights.shape) != (rows,):
        raise InputError(f"sample_weight needs the shape ({rows},); got {tuple(weights.shape)}.")
    wrong = (~(weights >= 0) | weights.isinf()).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"sample_weight needs finite numbers from 0 up; got {float(weights[row]):g} in row {row}. Remove this row, "
            "or set its weight to 0."
        )
    if not bool(weights.sum() > 0):
        raise InputError("sample_weight needs a weight above zero; all are zero. Increase at least one.")
    return weights


def read_initial_parameters(
    family: CovarianceFamily, components: int, features: int, weights: Any, means: Any, precisions: Any
) -> InitialParameters:
    """Return the initial parameters that the user gave.

    Args:
        family: of the covariances.
        components: number of components.
        features: number of features.
        weights: array-like or tensor, (components,), or None.
        means: array-like or tensor, (components, features), or None.
        precisions: array-like or tensor, in the shape of the covariances, or None.

    Raises:
        InputError: for a wrong shape, weights that are no distribution, or precisions that are not positive definite.
    """
    weights = read_parameter(weights, (components,), "weights")
    if weights is not None:
        check_weights(weights)
    means = read_parameter(means, (components, features), "means")
    name = f"{family.name} precision"
    precisions = read_parameter(precisions, family.covariance_shape(components, features), name)
    if precisions is None:
        return InitialParameters(weights, means, None)
    check_positive_definite(precisions, family, name)
    return InitialParameters(weights, means, whitening_from_precisions(family, precisions))


def _as_double(values: Any) -> Tensor:
    values = values if isinstance(values, Tensor) else np.asarray(values, dtype=np.float64)
    return as_tensor(values).to(torch.float64)


def read_parameter(values: Any, shape: tuple[int, ...], name: str) -> Any:
    """Return a parameter of a mixture as float64, or None where it is None.

    Args:
        values: array-like or tensor, or None.
        shape: the shape that it needs.
        name: for messages.

    Raises:
        InputError: for another shape, or values that are not finite.
    """
    if values is None:
        return None
    parameter = _as_double(values)
    if tuple(parameter.shape) != shape:
        raise InputError(f"The parameter '{name}' should have the shape of {shape}, but got {tuple(parameter.shape)}")
    if not bool(parameter.isfinite().all()):
        raise InputError(f"The parameter '{name}' should be finite, but it contains NaN or infinity.")
    if name.startswith("means") and bool((parameter.abs() > LARGEST).any()):
        raise InputError(
            f"The parameter '{name}' should be at most {LARGEST:g} in absolute value; larger squares overflow."
        )
    return parameter


def check_weights(weights: Tensor, tolerance: float = 1e-6) -> None:
    """Check that weights, (components,), are probabilities.

    Args:
        weights: of the components.
        tolerance: largest difference of their sum from 1.

    Raises:
        InputError: otherwise.
    """
    if bool((weights < 0).any() | (weights > 1).any()):
        # scikit-learn swaps the two numbers, and its own tests match this message.
        raise InputError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{float(weights.min()):.5f}, min value {float(weights.max()):.5f}"
        )
    if abs(float(weights.sum()) - 1) > tolerance:
        raise InputError(
            f"The parameter 'weights' should be normalized, but got sum(weights) = {float(weights.sum()):.5f}"
        )


def check_positive_definite(precisions: Tensor, family: CovarianceFamily, name: str) -> None:
    """Check that covariances or precisions are positive numbers, or symmetric and positive definite matrices.

    Args:
        precisions: in the shape of the covariances.
        family: of the covariances.
        name: for messages.

    Raises:
        InputError: otherwise.
    """
    if family.name in ("diag", "spherical"):
        if not bool((precisions > 0).all()):
            raise InputError(f"'{name}' should be positive")
        return
    symmetric = torch.allclose(precisions, precisions.mT)
    if not symmetric or not bool((torch.linalg.eigvalsh(precisions) > 0).all()):
        raise InputError(f"'{name}' should be symmetric, positive-definite")
