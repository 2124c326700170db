"""The expected further rise of the validation bound of a row, by its slope in the last fifth of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pvae.comparison.base import Outcome
from pvae.comparison.cells.training_summary import VALIDATION, LearningCurve, read_curve
from pvae.evaluate import Estimate

__all__ = ["GainLeft", "gain_left", "is_unfinished"]

_SHARE = 5  # the slope is computed from the last fifth of the curve
_FEWEST_POINTS = 5
#: A gain below the last decimal of the table does not mark a row.
_LEAST_GAIN = 0.01
_LEVEL = 0.05


@dataclass(frozen=True)
class GainLeft:
    """The expected further rise of the validation bound, in nats per datum.

    Attributes:
        gain: the mean over seeds, with its standard error; the count is the number of seeds.
        degrees: degrees of freedom of the error.
        epochs: the number of further epochs, mean over seeds.
    """

    gain: Estimate
    degrees: int
    epochs: float


def gain_left(outcomes: Sequence[Outcome]) -> GainLeft | None:
    """Return the gain that is left in the trainings of a row; None without a validation bound or with few epochs.

    For each training it is the slope of the bound over the last fifth of the epochs, times the epochs that are left of
    the patience. Without a patience it is the slope times the number of epochs in this fifth.

    Args:
        outcomes: the finished outcomes of the row.
    """
    gains = [_gain_of_training(outcome) for outcome in outcomes]
    known = [gain for gain in gains if gain is not None]
    if not known or len(known) < len(gains):
        return None
    value, error = sum(gain.gain.value for gain in known), math.hypot(*(gain.gain.error for gain in known))
    count = len(known)
    degrees, epochs = sum(gain.degrees for gain in known), sum(gain.epochs for gain in known)
    return GainLeft(Estimate(value / count, error / count, count), degrees, epochs / count)


def _gain_of_training(outcome: Outcome) -> GainLeft | None:
    curve = read_curve(outcome.scores)
    window = max(_FEWEST_POINTS, math.ceil(len(curve.points) / _SHARE)) if curve is not None else 0
    if curve is None or curve.split != VALIDATION or len(curve.points) < window:
        return None
    epochs, values = (np.array(column, dtype=float) for column in list(zip(*curve.points[-window:], strict=True))[:2])
    if not np.isfinite(values).all():
        return None
    centred = epochs - epochs.mean()
    slope = float(centred @ values / (centred @ centred))
    residuals = values - values.mean() - slope * centred
    error = math.sqrt(float(residuals @ residuals) / (window - 2) / float(centred @ centred))
    left = _epochs_left(curve, outcome, window)
    return GainLeft(Estimate(slope * left, error * left, 1), window - 2, left)


def _epochs_left(curve: LearningCurve, outcome: Outcome, window: int) -> int:
    """Return the epochs that are left of the patience of a training; without a patience, the epochs of the window."""
    patience = outcome.cell.config.get("fit", {}).get("patience")
    if patience is None:
        return window
    best = max(curve.points, key=lambda point: point.value)
    return max(0, int(patience) - (curve.points[-1].epoch - best.epoch))


def is_unfinished(left: GainLeft | None) -> bool:
    """Return whether a gain is at least 0.01 nats, and above 0 by a one-sided t test at 5 %."""
    from scipy.special import stdtrit

    if left is None:
        return False
    critical = float(stdtrit(left.degrees, 1.0 - _LEVEL))
    return left.gain.value >= _LEAST_GAIN and left.gain.value > critical * left.gain.error
