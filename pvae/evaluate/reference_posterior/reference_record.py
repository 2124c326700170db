"""`ReferencePosterior`: the guide against the posterior by Hamiltonian Monte Carlo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from pvae.evaluate.base import Estimate
from pvae.evaluate.finding import EvaluationFinding
from pvae.evaluate.reference_posterior.sample_posterior import SitePosterior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ReferencePosterior", "SiteComparison", "reference_of"]

Floats = NDArray[np.float64]

LARGEST_RHAT, EFFECTIVE_PER_CHAIN = 1.01, 100
"""Chains with a larger R-hat, or with fewer effective draws, did not converge."""

FINE_SHIFT, BAD_SHIFT = 0.2, 0.5
"""Limits of the mean distance between the guide's mean and the posterior mean, in posterior standard deviations."""

FINE_RATIO, BAD_RATIO = 1.2, 1.5
"""Limits of the typical ratio of the standard deviations of guide and posterior, in either direction."""

_LIMIT = (
    f"R-hat {LARGEST_RHAT:g} and {EFFECTIVE_PER_CHAIN} effective draws per chain; mean within {FINE_SHIFT:g} (bad from "
    f"{BAD_SHIFT:g}) sd, sd within a factor of {FINE_RATIO:g} (bad from {BAD_RATIO:g})"
)
_SOURCE = "Vehtari et al., Bayesian Analysis 16 (2021) for convergence; the limits of mean and sd are a convention"


@dataclass(frozen=True)
class SiteComparison:
    """One site of the guide against the reference posterior.

    Attributes:
        reference: the posterior by the chains.
        mean: the guide's mean, shape (data, units).
        sd: the guide's standard deviation, shape (data, units).
    """

    reference: SitePosterior
    mean: Floats
    sd: Floats

    @property
    def shift(self) -> Floats:
        """The distance of the means in standard deviations of the posterior, shape (data, units)."""
        return np.asarray(np.abs(self.mean - self.reference.mean) / np.maximum(self.reference.sd, 1e-300))

    @property
    def log_ratio(self) -> Floats:
        """Log of the guide's standard deviation over that of the posterior, shape (data, units)."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.sd) - np.log(self.reference.sd))

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of every datum and unit as a dictionary that JSON can hold."""
        return {
            "mean": self.mean,
            "sd": self.sd,
            "reference_mean": self.reference.mean,
            "reference_sd": self.reference.sd,
            "rhat": self.reference.rhat,
            "ess": self.reference.ess,
        }


@dataclass(frozen=True)
class ReferencePosterior(EvaluationFinding):
    """The guide's mean and standard deviation against those of long chains, on a few data.

    The value is the mean distance between the guide's mean and the posterior mean, in standard deviations of the
    posterior; its error is over data. Without convergence of the chains there is no conclusion.

    Attributes:
        sites: the comparison of each continuous site.
        converged: whether all chains agree and have enough effective draws.
        worst_rhat: the largest R-hat of all units.
        least_ess: the smallest effective sample size of all units.
        chains: the number of chains.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> finding = pvae.evaluate.reference(model, x, draws=8, warmup=4, chains=2, limit=1, progress=False)
        >>> finding.chains, sorted(finding.sites)
        (2, ['z'])
    """

    question: ClassVar[str] = "Is the inference right?"
    name: ClassVar[str] = "reference"
    unit: ClassVar[str] = "posterior sd"

    sites: Mapping[str, SiteComparison] = field(kw_only=True, repr=False)
    converged: bool = field(kw_only=True)
    worst_rhat: float = field(kw_only=True)
    least_ess: float = field(kw_only=True)
    chains: int = field(kw_only=True)

    def details(self) -> dict[str, Any]:
        """Return convergence, and the numbers of each site."""
        return {
            "converged": self.converged,
            "worst_rhat": self.worst_rhat,
            "least_ess": self.least_ess,
            "chains": self.chains,
            "sites": dict(self.sites),
        }

    def more_rows(self) -> list[dict[str, str]]:
        """Return a row for convergence, and two for each site."""
        chains = f"R-hat up to {self.worst_rhat:.3f}, at least {self.least_ess:.0f} effective draws"
        rows = [{"quantity": "chains", "value": chains, "note": "converged" if self.converged else "not converged"}]
        for name, site in self.sites.items():
            note = f"largest {site.shift.max():.3g}"
            rows.append({"quantity": f"mean of {name}", "value": f"{site.shift.mean():.3g} sd away", "note": note})
            low, high = np.exp(site.log_ratio.min()), np.exp(site.log_ratio.max())
            ratio = f"{np.exp(site.log_ratio.mean()):.3g} times"
            rows.append({"quantity": f"sd of {name}", "value": ratio, "note": f"from {low:.3g} to {high:.3g}"})
        return rows

    def draw(self) -> Figure:
        """Return the guide's means with bars of one standard deviation against those of the chains."""
        from pvae.plots.trust_plots import interval_scatter

        points = {
            name: (site.reference.mean.ravel(), site.reference.sd.ravel(), site.mean.ravel(), site.sd.ravel())
            for name, site in self.sites.items()
        }
        return interval_scatter(points, "posterior mean by the chains", "mean of the guide")


def reference_of(sites: Mapping[str, SiteComparison], chains: int, cost: int) -> ReferencePosterior:
    """Return the finding for known posteriors.

    Args:
        sites: the comparison of each continuous site.
        chains: the number of chains.
        cost: decoder evaluations.
    """
    rhat = max(float(np.nanmax(site.reference.rhat)) for site in sites.values())
    ess = min(float(np.nanmin(site.reference.ess)) for site in sites.values())
    converged = rhat <= LARGEST_RHAT and ess >= EFFECTIVE_PER_CHAIN * chains
    shift = np.concatenate([site.shift for site in sites.values()], 1)
    ratio = np.concatenate([np.abs(site.log_ratio) for site in sites.values()], 1)
    estimate = Estimate.mean_of(torch.tensor(shift.mean(1)))
    factor = float(np.exp(ratio.mean()))
    chains_text = f"R-hat is up to {rhat:.3f}, the effective sample size is at least {ess:.0f}"
    status, reason = _status(estimate, factor, converged, chains_text)
    return ReferencePosterior(
        estimate.value, estimate.error, estimate.count, status, reason, cost, pointwise=estimate.pointwise,
        limit=_LIMIT, source=_SOURCE, sites=sites, converged=converged, worst_rhat=rhat, least_ess=ess, chains=chains,
    )  # fmt: skip


def _status(shift: Estimate, factor: float, converged: bool, chains: str) -> tuple[str, str]:
    """Return the status and the sentence for the mean distance of the means and the typical ratio of the sds."""
    if not converged:
        return "look", f"The chains did not converge ({chains}), so they show nothing about the guide. Use more draws."
    numbers = (
        f"the guide's means are {shift.value:.2g} posterior standard deviations away on average, and its standard "
        f"deviations differ by a factor of {factor:.3g}"
    )
    if shift.value >= BAD_SHIFT or factor >= BAD_RATIO:
        return "bad", f"The guide is far from the posterior of {shift.count} data: {numbers}."
    if shift.value > FINE_SHIFT or factor > FINE_RATIO:
        return "look", f"The guide differs from the posterior of {shift.count} data: {numbers}."
    return "fine", f"The guide agrees with the posterior of {shift.count} data: {numbers}."
