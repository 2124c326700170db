"""Assertions about Monte-Carlo estimates, in standard errors that are small against the effect tested."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def mean_and_error(values: Any, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean of independent draws along `axis`, and its standard error."""
    array = _array(values)
    return array.mean(axis), array.std(axis, ddof=1) / math.sqrt(array.shape[axis])


def assert_close_in_sigmas(
    estimate: Any, exact: Any, error: Any, sigmas: float = 4.5, effect: Any = None, resolution: float = 0.01
) -> None:
    """Fail where an estimate is further than `sigmas` standard errors from the exact value.

    Args:
        estimate: one number or an array of them.
        exact: what they estimate.
        error: standard errors of the estimates.
        sigmas: the tolerance, in standard errors.
        effect: size of the difference that a broken estimator would make. The test also fails, as too weak to
            tell, where the standard error is not below `resolution` times the effect.
        resolution: the largest allowed error, as a fraction of the effect.
    """
    __tracebackhide__ = True
    estimate, exact, error = np.broadcast_arrays(_array(estimate), _array(exact), _array(error))
    said = f"\nestimate {estimate}\nexact    {exact}\nerror    {error}\n"
    if not all(np.isfinite(array).all() for array in (estimate, exact, error)):
        raise AssertionError(f"Not every number is finite:{said}")
    if (error < 0).any() or (error == 0).all():
        raise AssertionError(f"A standard error has to be positive; compare exact numbers exactly:{said}")
    apart = np.abs(estimate - exact)
    away = np.divide(apart, error, out=np.where(apart > 0, np.inf, 0.0), where=error > 0)
    said += f"off by   {away} standard errors, {sigmas} are allowed\n"
    if effect is not None:
        weakest = (error / np.abs(_array(effect))).max()
        said += f"error / effect {weakest:.4f}, {resolution} is allowed\n"
        if not weakest < resolution:
            raise AssertionError(f"Too few draws to see the effect of size {effect}:{said}")
    print(said)
    if (away > sigmas).any():
        raise AssertionError(f"The estimate is off:{said}")
