"""`Sandwich`: a lower and an upper estimate of the log evidence, on observed and on simulated data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from scipy.special import stdtrit
from torch import Tensor

from pvae.batch import Batch
from pvae.data.subset import Subset
from pvae.errors import InputError
from pvae.evaluate.annealing.annealed_evidence import log_mean_weight, rows_of_settings
from pvae.evaluate.annealing.annealing_run import AnnealingSettings, Passes
from pvae.evaluate.annealing.missed_part import describe_missed_part, misses_part
from pvae.evaluate.base import Estimate, difference
from pvae.evaluate.finding import EvaluationFinding
from pvae.json_values import finite_or_none

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SMALL_GAP", "Sandwich", "sandwich_of"]

SMALL_GAP = 0.1
"""The gap between upper and lower estimate, in nats per datum, below which the evidence counts as known."""
#: Two estimates in the wrong order by more than this number of standard errors mean an error.
_MOST_ERRORS = 4.0


@dataclass(frozen=True)
class Sandwich(EvaluationFinding):
    """A lower and an upper estimate of the log evidence.

    The lower estimate is the logarithm of the mean weight of the forward chains, and in expectation at most log p(x).
    The upper one is minus the logarithm of the mean inverse weight of the reverse chains. It is in expectation at least
    log p(x) if the chains start from exact draws of the posterior, which exist for data simulated from the model. On
    observed data it is approximate.

    Attributes:
        lower: the lower estimate; its error is the standard error over data.
        upper: the upper estimate.
        lower_noise: the Monte-Carlo standard error of the lower estimate of each datum, shape (count,), nats; NaN for
            a single chain.
        upper_noise: the same for the upper estimate.
        is_exact: whether the reverse chains started from exact draws, so that the upper estimate is rigorous.
        on_simulated: the sandwich on data simulated from the model; None if data cannot be simulated, or if this object
            is that sandwich.
        chains: the number of chains of each datum.
        acceptance: the mean acceptance of the moves of the forward chains; NaN without moves.
        settings: temperatures, chains, start, schedule, leapfrog steps and seed.
        note: the reason why there is no sandwich on simulated data; empty if there is one.
        data: the simulated data; None for observed data.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> sandwich = pvae.evaluate.sandwich(model, x, temperatures=4, chains=4, leapfrog_steps=2, progress=False)
        >>> sandwich.lower <= sandwich.upper, sandwich.on_simulated.is_exact
        (True, True)
    """

    question: ClassVar[str] = "How likely is the data?"
    name: ClassVar[str] = "sandwich"

    lower: Estimate = field(kw_only=True)
    upper: Estimate = field(kw_only=True)
    lower_noise: Tensor = field(kw_only=True, compare=False, repr=False)
    upper_noise: Tensor = field(kw_only=True, compare=False, repr=False)
    is_exact: bool = field(kw_only=True)
    on_simulated: Sandwich | None = field(kw_only=True, default=None)
    chains: int = field(kw_only=True)
    acceptance: float = field(kw_only=True)
    settings: dict[str, Any] = field(kw_only=True)
    note: str = field(kw_only=True, default="")
    data: Batch | None = field(kw_only=True, default=None, compare=False, repr=False)

    @property
    def gap(self) -> Estimate:
        """The upper minus the lower estimate, paired datum by datum."""
        return difference(self.upper, self.lower)

    def interval(self, level: float = 0.99) -> tuple[float, float]:
        """Return an interval for the mean log p(x) of these data: both estimates, widened by their Monte-Carlo error.

        It does not contain the spread over data. It is rigorous if the upper estimate is rigorous.

        Args:
            level: the confidence of the interval, between 0 and 1.

        Raises:
            InputError: if there is only one chain, because its Monte-Carlo error is not known, or the level is out of
                range.
        """
        low_margin, high_margin = (
            self._quantile(level, self.lower.count) * float(noise.square().sum().sqrt()) / len(noise)
            for noise in (self.lower_noise, self.upper_noise)
        )
        return self.lower.value - low_margin, self.upper.value + high_margin

    def intervals(self, level: float = 0.99) -> tuple[Tensor, Tensor]:
        """Return the lower and the upper end of an interval for log p(x) of each datum, shape (count,) each, in nats.

        Args:
            level: the confidence of each interval, between 0 and 1.

        Raises:
            InputError: as `interval`.
        """
        quantile = self._quantile(level, 1)
        lower, upper = (estimate.map(lambda values: values).pointwise for estimate in (self.lower, self.upper))
        if lower is None or upper is None:
            raise InputError(
                "Intervals need the value of each datum, and the estimates have only means. Compute the sandwich again."
            )
        return lower - quantile * self.lower_noise, upper + quantile * self.upper_noise

    def _quantile(self, level: float, data: int) -> float:
        """Return the quantile of Student's t for a two-sided interval, from the chains of some data."""
        if not 0.0 < level < 1.0:
            raise InputError(f"level must lie between 0 and 1; got {level!r}.")
        if self.chains == 1:
            raise InputError(
                "An interval needs a Monte-Carlo error, which one chain does not have. Use chains=4 or more."
            )
        return float(stdtrit((self.chains - 1) * data, 0.5 + level / 2))

    def details(self) -> dict[str, Any]:
        """Return the numbers that only this kind of finding has."""
        simulated = None if self.on_simulated is None else self.on_simulated.to_json()
        return {
            "lower": self.lower.to_json(),
            "upper": self.upper.to_json(),
            "gap": self.gap.to_json(),
            "subset": None if self.lower.subset is None else str(self.lower.subset),
            "upper_is": "rigorous" if self.is_exact else "approximate",
            "lower_noise": finite_or_none(float(self.lower_noise.mean())),
            "upper_noise": finite_or_none(float(self.upper_noise.mean())),
            "acceptance": finite_or_none(self.acceptance),
            "settings": self.settings,
            "on_simulated": simulated,
            "note": self.note,
        }

    def more_rows(self) -> list[dict[str, str]]:
        """Return both estimates and their gap, on observed and on simulated data."""
        rows = self._rows("rigorous" if self.is_exact else "approximate")
        if self.on_simulated is not None:
            rows += [
                {**row, "quantity": f"{row['quantity']} (simulated data)"}
                for row in self.on_simulated._rows("rigorous")
            ]
        if self.note:
            rows.append({"quantity": "simulated data", "value": "none", "note": self.note})
        rows.append({"quantity": "acceptance", "value": f"{self.acceptance:.0%}", "note": "of the moves"})
        return rows

    def _rows(self, kind: str) -> list[dict[str, str]]:
        estimates = (("lower", self.lower, "rigorous"), ("upper", self.upper, kind), ("gap", self.gap, kind))
        return [{"quantity": name, "value": f"{value} nats", "note": note} for name, value, note in estimates]

    def draw(self) -> Figure:
        """Return the gap of each datum in order, on observed and on simulated data."""
        from pvae.plots.annealing_plots import sandwich_gaps

        gaps = {"data (approximate)" if not self.is_exact else "simulated data (rigorous)": self.gap.pointwise}
        if self.on_simulated is not None:
            gaps["simulated data (rigorous)"] = self.on_simulated.gap.pointwise
        return sandwich_gaps(gaps, SMALL_GAP)


def sandwich_of(
    passes: Passes,
    settings: AnnealingSettings,
    cost: int,
    *,
    simulated: Sandwich | None = None,
    subset: Subset | None = None,
    data: Batch | None = None,
    note: str = "",
) -> Sandwich:
    """Return the finding of a forward and a reverse pass.

    Args:
        passes: the log weights of both passes.
        settings: the settings of the passes.
        cost: the number of decoder evaluations, including those for the simulated data.
        simulated: the sandwich on simulated data, if there is one.
        subset: a description of which observed data these are.
        data: the simulated data; the reverse chains started from their z, which are exact draws of the posterior. None
            for observed data.
        note: the reason why there is no sandwich on simulated data.

    Raises:
        InputError: if there is no reverse pass.
    """
    if passes.reverse is None:
        raise InputError("A sandwich needs a reverse pass; there is none.")
    exact = data is not None
    low, low_noise = log_mean_weight(passes.forward.log_w)
    high, high_noise = log_mean_weight(-passes.reverse.log_w)
    lower, upper = (replace(Estimate.mean_of(values), subset=subset) for values in (low, -high))
    status, reason = _verdict(_Gap.of(lower, upper, low_noise, high_noise), simulated, exact=exact, note=note)
    if simulated is not None and misses_part(simulated.gap.value, upper.value - lower.value):
        reason = f"{reason}; {describe_missed_part('', settings.start)}"
    return Sandwich(
        lower.value,
        lower.error,
        lower.count,
        status,
        reason,
        cost,
        pointwise=lower.pointwise,
        limit=f"a gap of {SMALL_GAP} nats per datum on simulated data",
        source="a convention of pvae; Grosse, Ghahramani & Adams, arXiv:1511.02543 (the gap)",
        lower=lower,
        upper=upper,
        lower_noise=low_noise,
        upper_noise=high_noise,
        is_exact=exact,
        on_simulated=simulated,
        chains=settings.chains,
        acceptance=float(passes.forward.acceptance.mean()),
        settings=rows_of_settings(settings),
        note=note,
        data=data,
    )


class _Gap(NamedTuple):
    """The mean gap between upper and lower estimate, and its Monte-Carlo standard error, in nats per datum."""

    value: float
    error: float

    @classmethod
    def of(cls, lower: Estimate, upper: Estimate, lower_noise: Tensor, upper_noise: Tensor) -> _Gap:
        """Return the gap of two estimates with the Monte-Carlo errors of their data, shape (data,) each."""
        variance = lower_noise.square() + upper_noise.square()
        return cls(upper.value - lower.value, float(variance.sum().sqrt()) / len(variance))

    @property
    def is_small(self) -> bool:
        """Whether the gap is small even two Monte-Carlo errors further from 0, in either direction."""
        return abs(self.value) + 2.0 * self.error <= SMALL_GAP  # False if the error is NaN

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.error:.2g}" if math.isfinite(self.error) else f"{self.value:.3g}"


def _verdict(gap: _Gap, simulated: Sandwich | None, *, exact: bool, note: str) -> tuple[str, str]:
    """Return status and reason: by the rigorous gap on simulated data, and by the order of the estimates."""
    if gap.value < -_MOST_ERRORS * gap.error:
        cause = "which exact draws exclude" if exact else "so the reverse chains did not start from the posterior"
        return "bad", f"the upper estimate is {-gap.value:.3g} nats below the lower one, {cause}: use more temperatures"
    if exact:
        rigorous, reason = gap, f"the gap is {gap} nats per datum"
    elif simulated is None:
        return "look", f"the gap is {gap} nats per datum, and only approximate: {note}"
    else:
        rigorous = _Gap.of(simulated.lower, simulated.upper, simulated.lower_noise, simulated.upper_noise)
        reason = f"the gap is {gap} nats per datum (approximate), and on simulated data it is {rigorous}"
    if rigorous.is_small and gap.is_small:
        return "fine", reason
    return "look", f"{reason}; use more temperatures, more chains or start='guide' for less than {SMALL_GAP}"
