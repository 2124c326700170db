"""`AnnealedEvidence`: the lower bound of annealed importance sampling, with its Monte-Carlo error."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from pvae.data.subset import Subset
from pvae.evaluate.annealing.annealed_chains import AnnealedWeights
from pvae.evaluate.annealing.annealing_run import AnnealingSettings
from pvae.evaluate.base import Estimate
from pvae.evaluate.finding import EvaluationFinding
from pvae.json_values import finite_or_none

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AnnealedEvidence", "annealed_evidence_of", "log_mean_weight", "rows_of_settings"]


def log_mean_weight(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithm of the mean weight of each datum, and its Monte-Carlo standard error, in nats.

    The error is the standard error of the mean weight divided by the mean weight (delta method); NaN for one chain.

    Args:
        log_w: log weights, float64, shape (chains, data).

    Returns:
        Both of shape (data,).
    """
    chains = len(log_w)
    value = torch.logsumexp(log_w, 0) - math.log(chains)
    if chains == 1:
        return value, torch.full_like(value, math.nan)
    relative = (log_w - value).exp()
    return value, relative.std(0, correction=1) / math.sqrt(chains)


def rows_of_settings(settings: AnnealingSettings) -> dict[str, Any]:
    """Return the settings of an annealing by name, as JSON values."""
    names = ("temperatures", "chains", "start", "schedule", "leapfrog_steps", "seed")
    return {name: vars(settings)[name] for name in names}


@dataclass(frozen=True)
class AnnealedEvidence(EvaluationFinding):
    """The log evidence by annealed importance sampling: in expectation a lower bound on log p(x).

    Attributes:
        estimate: the lower bound; its error is the standard error over data.
        noise: the Monte-Carlo standard error of each datum's value, shape (count,), in nats; NaN for a single chain.
        acceptance: the mean acceptance of the moves; NaN without moves.
        settings: temperatures, chains, start, schedule, leapfrog steps and seed.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> finding = pvae.evaluate.ais(model, x, temperatures=5, chains=2, leapfrog_steps=2, progress=False)
        >>> finding.noise.shape, finding.settings["temperatures"]
        (torch.Size([4]), 5)
    """

    question: ClassVar[str] = "How likely is the data?"
    name: ClassVar[str] = "ais"

    estimate: Estimate = field(kw_only=True)
    noise: Tensor = field(kw_only=True, compare=False, repr=False)
    acceptance: float = field(kw_only=True)
    settings: dict[str, Any] = field(kw_only=True)

    def details(self) -> dict[str, Any]:
        """Return the numbers that only this finding has."""
        return {
            "log_evidence": self.estimate.to_json(),
            "subset": None if self.estimate.subset is None else str(self.estimate.subset),
            "noise": finite_or_none(float(self.noise.mean())),
            "acceptance": finite_or_none(self.acceptance),
            "settings": self.settings,
        }

    def more_rows(self) -> list[dict[str, str]]:
        """Return the Monte-Carlo error and the acceptance."""
        return [
            {"quantity": "noise of a datum", "value": f"{float(self.noise.mean()):.3f} nats", "note": "mean over data"},
            {"quantity": "acceptance", "value": f"{self.acceptance:.0%}", "note": "of the moves; 65% is aimed at"},
        ]

    def draw(self) -> Figure:
        """Return the lower bound of each datum, in order, with its Monte-Carlo error."""
        from pvae.plots.annealing_plots import evidence_by_datum

        return evidence_by_datum(self.pointwise, self.noise)


def annealed_evidence_of(
    weights: AnnealedWeights, settings: AnnealingSettings, cost: int, subset: Subset | None
) -> AnnealedEvidence:
    """Return the finding of a forward pass.

    Args:
        weights: the log weights of the pass.
        settings: the settings of the pass.
        cost: the number of decoder evaluations.
        subset: a description of which data these are.
    """
    pointwise, noise = log_mean_weight(weights.log_w)
    estimate = replace(Estimate.mean_of(pointwise), subset=subset)
    reason = (
        f"log p(x) is at least {estimate} nats per datum in expectation; a lower bound does not show its distance from "
        "log p(x), but sandwich does"
    )
    return AnnealedEvidence(
        estimate.value,
        estimate.error,
        estimate.count,
        "look",
        reason,
        cost,
        pointwise=estimate.pointwise,
        limit="a lower bound is never enough",
        source="Neal, Annealed Importance Sampling, 2001",
        estimate=estimate,
        noise=noise,
        acceptance=float(weights.acceptance.mean()),
        settings=rows_of_settings(settings),
    )
