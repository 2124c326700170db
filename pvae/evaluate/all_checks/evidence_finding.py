"""`EvidenceFinding`: how likely the data are, and whether the number can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pvae.evaluate.base import Estimate
from pvae.evaluate.finding import EvaluationFinding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EvidenceFinding", "evidence_finding", "remaining_rise"]

LARGEST_BIAS = 0.1
"""A bias of the log evidence above this number of nats deserves a look."""

#: The part of the training whose slope is measured, and the least number of its records.
_LAST_PART, _FEWEST_RECORDS = 0.2, 4


@dataclass(frozen=True)
class EvidenceFinding(EvaluationFinding):
    """The mean log p(x) by importance sampling, with its bias, and whether the training had ended to rise.

    Attributes:
        elbo: the evidence lower bound.
        rise: by how much the validation bound would rise in another fifth of the training, in nats per datum, at its
            slope over the last fifth; None without records.
    """

    question: ClassVar[str] = "How likely is the data?"
    name: ClassVar[str] = "log evidence"

    elbo: Estimate | None = field(default=None, kw_only=True)
    bias: Any = field(default=None, kw_only=True)
    rise: Estimate | None = field(default=None, kw_only=True)

    def details(self) -> dict[str, Any]:
        """Return the ELBO, the bias and the remaining rise."""
        return {"elbo": self.elbo, "bias": self.bias, "rise": self.rise}

    def more_rows(self) -> list[dict[str, str]]:
        """Return rows for the ELBO, the bias and the remaining rise."""
        named = {"ELBO": self.elbo, "bias of the log evidence": self.bias, "remaining rise of the training": self.rise}
        return [
            {"quantity": name, "value": f"{value} nats per datum", "note": ""}
            for name, value in named.items()
            if value is not None
        ]

    def draw(self) -> Figure:
        """Return the distribution of log p(x) over data."""
        from pvae.plots.trust_plots import value_histogram

        values = torch.zeros(0) if self.pointwise is None else self.pointwise
        return value_histogram(values, "log p(x), nats per datum", self.question)


def evidence_finding(
    evidence: Estimate, elbo: Estimate, records: Sequence[Mapping[str, Any]] | None, notes: Sequence[str], cost: int
) -> EvidenceFinding:
    """Return the finding about the log evidence.

    Args:
        evidence: mean log p(x), with its `bias`.
        elbo: the evidence lower bound.
        records: the records of the training by epoch; None if there was no training.
        notes: reasons why the log evidence is not reliable.
        cost: decoder evaluations.
    """
    bias = evidence.bias
    size = math.nan if bias is None else abs(bias.value) + bias.margin
    rise = None if records is None else remaining_rise(records)
    doubts = [note[0].upper() + note[1:] + "." for note in notes]
    if size > LARGEST_BIAS:
        doubts.append(f"Its bias may be {size:.2g} nats, above {LARGEST_BIAS:g}.")
    if rise is not None and rise.value > max(LARGEST_BIAS, 2.0 * rise.error):
        doubts.append(f"The training is unfinished: another fifth of it would add about {rise} nats.")
    unknown = ["The run has too few validation records to show whether its training had ended."]
    notices = unknown if records is not None and rise is None else []
    reason = " ".join([f"The mean log p(x) is {evidence} nats per datum.", *doubts, *notices])
    return EvidenceFinding(
        evidence.value, evidence.error, evidence.count, "look" if doubts else "fine", reason, cost,
        pointwise=evidence.pointwise, limit=f"bias and remaining rise up to {LARGEST_BIAS:g} nats",
        source="Burda et al., arXiv:1509.00519; Domke & Sheldon, NeurIPS 2018 (bias)", elbo=elbo, bias=bias, rise=rise,
    )  # fmt: skip


def remaining_rise(records: Sequence[Mapping[str, Any]]) -> Estimate | None:
    """Return by how much the validation bound rises in a fifth of the training, at its slope over the last fifth.

    The slope is that of a least-squares line; its standard error comes from the residuals.

    Args:
        records: the records of the training, with the key ``validation_bound`` where it was computed.

    Returns:
        The rise in nats per datum with its standard error, of `count` records; None for fewer than 16 records.
    """
    bounds = np.array([record["validation_bound"] for record in records if record.get("validation_bound") is not None])
    count = math.ceil(_LAST_PART * len(bounds))
    if count < _FEWEST_RECORDS or not np.isfinite(bounds).all():
        return None
    steps = np.arange(count) - (count - 1) / 2
    last = bounds[-count:]
    slope = float(steps @ last / (steps @ steps))
    residuals = last - last.mean() - slope * steps
    error = math.sqrt(float(residuals @ residuals) / (count - 2) / float(steps @ steps))
    return Estimate(slope * count, error * count, count)
