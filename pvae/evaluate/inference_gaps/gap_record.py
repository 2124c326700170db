"""`Gaps`: the gap between log evidence and ELBO, and its parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from pvae.evaluate.base import Estimate, difference
from pvae.evaluate.finding import EvaluationFinding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BAD", "FINE", "Gaps", "gaps_of"]

FINE, BAD = 0.1, 1.0
"""Limits of the bound gap in nats per datum, which is KL(q to p(z given x)). By Pinsker's inequality, no classifier
distinguishes draws of q from draws of the posterior with an accuracy above 1/2 + sqrt(KL / 8): 0.61 at 0.1 nats."""

#: Families that are contained in the richer families.
_GAUSSIAN = {"Normal", "MultivariateNormal"}

#: The rounding error of differences of float32 log-densities, relative to log p(x).
_ROUNDING = 1e-6

_LIMIT = f"fine up to {FINE:g}, bad from {BAD:g} nats per datum"
_SOURCE = "Pinsker's inequality; Cremer, Li & Duvenaud, arXiv:1801.03558 (the parts)"


@dataclass(frozen=True)
class Gaps(EvaluationFinding):
    """The gap log p(x) - ELBO(q) = approximation gap + amortisation gap, in nats per datum; the value is the gap.

    Attributes:
        approximation: log p(x) - ELBO(q*), where q* is the best q of the guide's family for the datum.
        amortisation: ELBO(q*) - ELBO(q), which is lost because the encoder is one network for all data.
        richer: the part of the approximation gap that a richer family closes, ELBO(richer q*) - ELBO(q*); None if it
            was not computed. It may be negative if the guide is not Gaussian, because the richer family is Gaussian in
            real coordinates, or a flow of a Gaussian.
        richer_family: the name of the richer family, or the reason why there is none.
        family: the family of each site of the guide.
        train: the gaps on the training split, if it was evaluated too.
        failed: the names of the parts that are below zero by more than two standard errors.
        notes: notes on results that are left out, one line each.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> gaps = pvae.evaluate.gaps(model, x, particles=50, steps=5, draws=4, richer=None, progress=False)
        >>> abs(gaps.value - gaps.approximation.value - gaps.amortisation.value) < 1e-6
        True
    """

    question: ClassVar[str] = "Is the inference right?"
    name: ClassVar[str] = "gaps"

    approximation: Estimate = field(kw_only=True)
    amortisation: Estimate = field(kw_only=True)
    richer: Estimate | None = field(default=None, kw_only=True)
    richer_family: str = field(default="", kw_only=True)
    family: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    train: Gaps | None = field(default=None, kw_only=True)
    failed: tuple[str, ...] = field(default=(), kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    def parts(self) -> dict[str, Estimate]:
        """Return the parts of the gap by name."""
        parts = {"approximation gap": self.approximation, "amortisation gap": self.amortisation}
        return parts if self.richer is None else {**parts, f"closed by {self.richer_family}": self.richer}

    def details(self) -> dict[str, Any]:
        """Return the parts of the gap, and the gaps of the training split."""
        return {
            "approximation": self.approximation,
            "amortisation": self.amortisation,
            "richer": self.richer,
            "richer_family": self.richer_family,
            "family": dict(self.family),
            "failed": list(self.failed),
            "train": self.train,
            "notes": list(self.notes),
        }

    def more_rows(self) -> list[dict[str, str]]:
        """Return a row for each part, and the gaps of the training split."""
        rows = [_row(name, part) for name, part in self.parts().items()]
        if self.train is not None:
            rows += [_row(f"{name}, training split", part) for name, part in self.train.parts().items()]
        return [*rows, *[{"quantity": "note", "value": "", "note": note} for note in self.notes]]

    def draw(self) -> Figure:
        """Return the parts of the gap as intervals of one standard error."""
        from pvae.plots.curves import evidence_intervals

        splits = {"": self} if self.train is None else {" (test)": self, " (train)": self.train}
        parts = {f"{name}{suffix}": part for suffix, gaps in splits.items() for name, part in gaps.parts().items()}
        return evidence_intervals(
            {name: [part.value] for name, part in parts.items()},
            {name: part.error if math.isfinite(part.error) else 0.0 for name, part in parts.items()},
            xlabel="gap (nats per datum)",
            zero=True,
        )


def _row(name: str, part: Estimate) -> dict[str, str]:
    return {"quantity": name, "value": f"{part} nats per datum", "note": ""}


def gaps_of(
    evidence: Tensor, elbo: Tensor, best_elbo: Tensor, richer_elbo: Tensor | None, cost: int, **settings: Any
) -> Gaps:
    """Return the gaps of known bounds.

    Args:
        evidence: log p(x) of each datum, shape (data,), nats.
        elbo: the ELBO of the guide, shape (data,), nats.
        best_elbo: the ELBO of the best q of the family, shape (data,), nats.
        richer_elbo: the ELBO of the best q of a richer family, shape (data,), nats; None without one.
        cost: decoder evaluations.
        settings: further attributes of `Gaps`.
    """
    estimates: dict[str, Any] = {
        "approximation": difference(Estimate.mean_of(evidence), Estimate.mean_of(best_elbo)),
        "amortisation": difference(Estimate.mean_of(best_elbo), Estimate.mean_of(elbo)),
    }
    if richer_elbo is not None:
        estimates["richer"] = difference(Estimate.mean_of(richer_elbo), Estimate.mean_of(best_elbo))
    gap = difference(Estimate.mean_of(evidence), Estimate.mean_of(elbo))
    rounding = _ROUNDING * max(1.0, abs(float(evidence.mean())))
    # The Gaussians in real coordinates contain the guide's family only if it is Gaussian too.
    contains = set(settings.get("family", {}).values()) <= _GAUSSIAN
    judged = {name: part for name, part in estimates.items() if name != "richer" or contains}
    failed = tuple(name for name, part in judged.items() if part.value < -2.0 * part.error - rounding)
    status, reason = _status(gap, estimates, failed)
    return Gaps(
        gap.value, gap.error, gap.count, status, reason, cost,
        pointwise=gap.pointwise, limit=_LIMIT, source=_SOURCE, failed=failed, **estimates, **settings,
    )  # fmt: skip


def _status(gap: Estimate, parts: Mapping[str, Estimate], failed: tuple[str, ...]) -> tuple[str, str]:
    """Return the status and the sentence for a gap and its parts."""
    if failed:
        part = parts[failed[0]]
        reason = (
            f"The optimiser failed: the {failed[0]} part is {part} nats per datum, below zero by more than two "
            "standard errors, so q* is not the best q. Use more steps or another rate."
        )
        return "look", reason
    larger = "amortisation" if parts["amortisation"].value > parts["approximation"].value else "approximation"
    status = "fine" if gap.value <= FINE else "bad" if gap.value >= BAD else "look"
    side = {"fine": f"at most {FINE:g}", "look": f"above {FINE:g}", "bad": f"at least {BAD:g}"}[status]
    reason = (
        f"The ELBO is {gap} nats per datum below log p(x), {side}; the larger part is the {larger} gap, "
        f"{parts[larger]}."
    )
    return status, reason
