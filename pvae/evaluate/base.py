"""`Estimate`: a mean over data with its standard error, and the paired difference of two estimates."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from pvae.data.subset import Subset
from pvae.errors import InputError
from pvae.json_values import finite_or_none
from pvae.shown_tables import ShownTable

__all__ = ["Estimate", "EvidenceBias", "difference", "mean_of"]


def _decimals(error: float) -> int:
    """Return the number of decimals that shows two significant digits of the error.

    It is at most eight, and four for an error that is not finite or not positive.
    """
    if not math.isfinite(error) or error <= 0.0:
        return 4
    return min(8, max(0, 1 - math.floor(math.log10(float(f"{error:.1e}")))))


@dataclass(frozen=True)
class Estimate:
    """A mean over data with its standard error, in the unit of the data (nats per datum for evidences).

    ``float(estimate)`` is its value. ``<``, ``<=``, ``>`` and ``>=`` compare only the values, without their errors, so
    estimates can be sorted. ``a - b`` is paired datum by datum, as in `pvae.evaluate.difference`, if both estimates
    have values of the same number of data; this is correct for the same data in the same order, and for independent
    data. Otherwise it has the standard error of independent estimates.

    >>> a, b = Estimate(-25.0, 0.3, 100), Estimate(-27.0, 0.4, 200)
    >>> print(a - b)
    2.00 ± 0.50
    >>> a > b
    True

    Args:
        value: the mean.
        error: one standard error of the mean over data; NaN for a single datum.
        count: the number of data.
        pointwise: the value of each datum, float64 on the CPU, shape (count,); None if the values were not kept.
        bias: the estimated bias of the value; None if it is not known. Value minus bias is the corrected estimate.
        subset: a description of which data these are, such as ``500 of 10,000, drawn with seed 0``; None if it is not
            known.
    """

    value: float
    error: float
    count: int
    pointwise: Tensor | None = field(default=None, compare=False, repr=False)
    bias: EvidenceBias | None = field(default=None, compare=False, repr=False)
    subset: Subset | None = field(default=None, compare=False, repr=False)

    @classmethod
    def mean_of(cls, values: Tensor) -> Self:
        """Return the mean of `values` with the standard error of independent data.

        Args:
            values: one number per datum, shape (data,).

        Raises:
            InputError: if there are no data, or `values` has more than one dimension.
        """
        values = torch.as_tensor(values).detach().to("cpu", torch.float64)
        if values.ndim != 1 or len(values) == 0:
            raise InputError(f"An estimate needs one number per datum, shape (data,); got shape {tuple(values.shape)}.")
        count = len(values)
        error = float(values.std(correction=1)) / math.sqrt(count) if count > 1 else math.nan
        return cls(float(values.mean()), error, count, values)

    def map(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        """Return the estimate of ``function(pointwise)``, for example in another unit.

        Args:
            function: from the values of the data, shape (count,), to values of the same shape.

        Raises:
            InputError: if the estimate has no pointwise values.
        """
        return Estimate.mean_of(function(_pointwise(self)))

    def __float__(self) -> float:
        return self.value

    def __lt__(self, other: Estimate | float) -> bool:
        return self._compared(other, operator.lt)

    def __le__(self, other: Estimate | float) -> bool:
        return self._compared(other, operator.le)

    def __gt__(self, other: Estimate | float) -> bool:
        return self._compared(other, operator.gt)

    def __ge__(self, other: Estimate | float) -> bool:
        return self._compared(other, operator.ge)

    def _compared(self, other: Any, compare: Callable[[float, float], bool]) -> bool:
        if not isinstance(other, Estimate | float | int):
            return NotImplemented
        return compare(self.value, float(other))

    def __sub__(self, other: Estimate | float) -> Estimate:
        if isinstance(other, Estimate):
            has_values = self.pointwise is not None and other.pointwise is not None
            if has_values and self.count == other.count and not _are_of_other_data(self.subset, other.subset):
                return difference(self, other)
            return Estimate(self.value - other.value, math.hypot(self.error, other.error), min(self.count, other.count))
        if isinstance(other, float | int):
            return Estimate(self.value - other, self.error, self.count, subset=self.subset)
        return NotImplemented

    def _repr_html_(self) -> str:
        return ShownTable(["estimate", "data"], [[str(self), str(self.subset or self.count)]]).to_html()

    def to_json(self) -> dict[str, Any]:
        """Return ``{"value":, "error":, "count":}``; a number that is not finite becomes None (null in JSON)."""
        return {
            "value": finite_or_none(self.value),
            "error": finite_or_none(self.error),
            "count": self.count,
        }

    def __str__(self) -> str:
        decimals = _decimals(self.error)
        if not math.isfinite(self.error):
            return f"{self.value:.{decimals}f}"
        return f"{self.value:.{decimals}f} ± {self.error:.{decimals if self.error else 0}f}"


@dataclass(frozen=True)
class EvidenceBias(Estimate):
    """The bias of an importance-sampled log evidence, estimated by extrapolation in 1/K for K particles.

    It is negative if the estimate of the evidence is too low.

    Args:
        margin: the further amount, in nats, by which the evidence may be too low because its bound rises more slowly
            than 1/K; 0 if the rise agrees with 1/K, NaN if it is not known.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> evidence = pvae.evaluate.log_evidence(model, x, particles=5000)
        >>> corrected = evidence.value - evidence.bias.value
        >>> corrected >= evidence.value
        True
    """

    margin: float = math.nan

    def __str__(self) -> str:
        margin = f"{self.margin:.{_decimals(self.error)}f}" if math.isfinite(self.margin) else "not known"
        return f"{super().__str__()} (margin {margin})"

    def to_json(self) -> dict[str, Any]:
        """Return ``{"value":, "error":, "count":, "margin":}``; a number that is not finite becomes None."""
        return {**super().to_json(), "margin": finite_or_none(self.margin)}


def mean_of(values: Tensor) -> Estimate:
    """Return the mean of one number per datum, with its standard error (`Estimate.mean_of`).

    Args:
        values: one number per datum, shape (data,).

    Raises:
        InputError: if there are no data, or `values` has more than one dimension.

    Example:
        >>> import torch
        >>> from pvae.evaluate import mean_of
        >>> print(mean_of(torch.tensor([-1.0, -2.0, -3.0])))
        -2.00 ± 0.58
    """
    return Estimate.mean_of(values)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """Return ``a - b``, paired datum by datum, with the standard error of the paired difference.

    The log evidence of images varies by tens of nats from datum to datum, and two models usually agree on which data
    are hard. The paired error is then many times smaller than the error of two independent estimates. If both biases
    are known, the difference has a bias too: `value` minus this bias is the difference of the corrected estimates.

    Args:
        a: an estimate with pointwise values.
        b: an estimate on the same data in the same order.

    Raises:
        InputError: if pointwise values are missing, or the data differ.

    Example:
        >>> import torch
        >>> from pvae.evaluate import difference, mean_of
        >>> a, b = mean_of(torch.tensor([-20.0, -90.0, -40.0])), mean_of(torch.tensor([-21.0, -92.0, -41.0]))
        >>> print(a)
        -50 ± 21
        >>> print(difference(a, b))
        1.33 ± 0.33
    """
    if a.count != b.count:
        raise InputError(f"A paired difference needs two estimates on the same data; got {a.count} data and {b.count}.")
    if _are_of_other_data(a.subset, b.subset):
        raise InputError(
            f"A paired difference needs two estimates on the same data; got {a.subset} data and {b.subset} data. "
            "Evaluate both with the same limit and seed."
        )
    result = Estimate.mean_of(_pointwise(a) - _pointwise(b))
    return replace(result, bias=_bias_of_difference(a.bias, b.bias), subset=a.subset or b.subset)


def _are_of_other_data(a: Subset | None, b: Subset | None) -> bool:
    """Return whether two descriptions are of different data; unknown ones may be of the same data."""
    return a is not None and b is not None and a != b and not (a.is_whole and b.is_whole)


def _bias_of_difference(a: EvidenceBias | None, b: EvidenceBias | None) -> EvidenceBias | None:
    """Return the bias of a difference; None if one of the two is not known. Its margin is the larger of the two."""
    if a is None or b is None or a.pointwise is None or b.pointwise is None:
        return None
    return replace(EvidenceBias.mean_of(a.pointwise - b.pointwise), margin=max(a.margin, b.margin))


def _pointwise(estimate: Estimate) -> Tensor:
    if estimate.pointwise is None:
        raise InputError(
            "This needs the value of each datum, and the estimate has no pointwise values. Evaluate the model again."
        )
    return estimate.pointwise
