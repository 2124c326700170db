"""`DataTrust`: the data with weights that show that the guide is far from the posterior."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.evaluate.diagnostics import Diagnosis
from pvae.evaluate.finding import EvaluationFinding, NotRun
from pvae.evaluate.weight_notes import FEWEST_EFFECTIVE, LARGEST_KL, MOST_UNRELIABLE, suspect_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DataTrust", "data_trust"]

#: The number of data that `to_json` and `table` list.
_MOST_LISTED = 10


@dataclass(frozen=True)
class DataTrust(EvaluationFinding):
    """The share of data on which the weights show that the guide is not the posterior.

    The pointwise values are KL(q to p(z given x)) in nats. The weights are not enough for the status "fine", because a
    guide on one of two modes has perfect weights.

    Attributes:
        suspect: whether each datum has a k-hat or a KL above its limit, or too few effective particles, shape (count,).
        khat: Pareto k-hat of each datum, shape (count,).
        worst: the numbers of the suspect data with the largest KL, at most 10, the worst first.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> findings = pvae.evaluate.all(model, x, budget=3000, progress=False)
        >>> trust = findings["On which data not?"].findings[0]
        >>> trust.khat.shape, trust.suspect.shape
        (torch.Size([4]), torch.Size([4]))
    """

    question: ClassVar[str] = "On which data not?"
    name: ClassVar[str] = "diagnose"
    unit: ClassVar[str] = "(share of data)"

    suspect: Tensor = field(kw_only=True, compare=False, repr=False)
    khat: Tensor = field(kw_only=True, compare=False, repr=False)
    worst: tuple[int, ...] = field(default=(), kw_only=True)

    def details(self) -> dict[str, Any]:
        """Return the numbers of the worst data, and the quantiles of KL over data."""
        return {"worst": list(self.worst), "suspect": int(self.suspect.sum()), "kl": self._quantiles()}

    def more_rows(self) -> list[dict[str, str]]:
        """Return rows for the worst data, and for the quantiles of KL."""
        listed = ", ".join(map(str, self.worst)) or "none"
        quantiles = ", ".join(f"{value:.3g} at {level}" for level, value in self._quantiles().items())
        return [
            {"quantity": "worst data", "value": listed, "note": "numbers of the data, from 0"},
            {"quantity": "KL(q to posterior)", "value": quantiles, "note": "quantiles over data, nats"},
        ]

    def _quantiles(self) -> dict[str, float]:
        if self.pointwise is None:
            return {}
        levels = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
        values = torch.quantile(self.pointwise.nan_to_num(nan=math.inf), levels, interpolation="nearest")
        return dict(zip(("5 %", "50 %", "95 %"), values.tolist(), strict=True))

    def draw(self) -> Figure:
        """Return KL and k-hat of each datum."""
        from pvae.plots.trust_plots import trust_scatter

        kl = torch.zeros(0) if self.pointwise is None else self.pointwise
        return trust_scatter(kl, self.khat, self.suspect, LARGEST_KL)


def data_trust(diagnosis: Diagnosis, *, is_calibrated: bool | None) -> EvaluationFinding:
    """Return the finding about single data.

    Args:
        diagnosis: the weights of each datum, with their trust.
        is_calibrated: whether `calibrate` found no defect; None if it was not run.

    Returns:
        The finding; a `NotRun` for a guide that is a point.

    Raises:
        InputError: if the diagnosis has no trust.
    """
    if diagnosis.trust is None:
        raise InputError("The finding needs a diagnosis with trust, as pvae.evaluate.diagnose returns it.")
    if bool(diagnosis.trust.accuracy.isnan().all()):
        return NotRun.of(DataTrust, "Not available: the guide is a point, which has no density and no weights.")
    kl = diagnosis.trust.kl
    suspect = suspect_data(diagnosis.khat, diagnosis.ess, diagnosis.particles, diagnosis.trust)
    count, bad = len(kl), int(suspect.sum())
    share = bad / count
    order = torch.where(suspect, kl.nan_to_num(nan=math.inf), -math.inf).argsort(descending=True)
    status, reason = _status(count, bad, share, is_calibrated)
    limit = (
        f"k-hat {diagnosis.good_khat:.2f}, KL {LARGEST_KL:g} nats, {FEWEST_EFFECTIVE:g} effective particles; "
        f"bad above {MOST_UNRELIABLE:.0%} of the data"
    )
    return DataTrust(
        share, math.sqrt(share * (1 - share) / count), count, status, reason, 0,
        pointwise=kl, limit=limit, source="Vehtari et al., JMLR 25 (2024)",
        suspect=suspect, khat=diagnosis.khat, worst=tuple(order[: min(bad, _MOST_LISTED)].tolist()),
    )  # fmt: skip


def _status(count: int, bad: int, share: float, is_calibrated: bool | None) -> tuple[str, str]:
    """Return the status and the sentence for a number of suspect data."""
    counted = f"The weights of {bad} of {count} data show that the guide is far from the posterior there"
    if share > MOST_UNRELIABLE:
        return "bad", f"{counted}, more than {MOST_UNRELIABLE:.0%}."
    if bad:
        return "look", f"{counted}, at most {MOST_UNRELIABLE:.0%}."
    if is_calibrated:
        return "fine", f"The weights of all {count} data are good, and the guide is calibrated on simulated data."
    cannot = "weights do not show a mode that the guide never draws"
    if is_calibrated is None:
        return "look", f"The weights of all {count} data are good, but {cannot}. Run calibrate."
    return "look", f"The weights of all {count} data are good, but the guide is not calibrated, and {cannot}."
