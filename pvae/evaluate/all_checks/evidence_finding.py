"""`EvidenceFinding`: how likely the data are, and whether the number can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from pvae.errors import InputError
from pvae.evaluate.all_checks.annealed_part import AnnealedPart
from pvae.evaluate.all_checks.shared_passes import WeightPass
from pvae.evaluate.annealing.missed_part import describe_shortfall, falls_short
from pvae.evaluate.annealing.sandwich_finding import Sandwich
from pvae.evaluate.base import Estimate, difference
from pvae.evaluate.finding import EvaluationFinding, as_sentence
from pvae.evaluate.membership import FEW_PARTICLES, describe_memorised, is_memorised

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EvidenceFinding", "evidence_finding", "remaining_rise"]

LARGEST_BIAS = 0.1
"""A bias of the log evidence above this number of nats gets the status "look"."""

#: The part of the training in which the slope is measured, and the least number of its records.
_LAST_PART, _FEWEST_RECORDS = 0.2, 4


@dataclass(frozen=True)
class EvidenceFinding(EvaluationFinding):
    """The mean log p(x), from both sides if possible, and whether it was still rising at the end of the training.

    With a sandwich, the value is its lower estimate, on a part of the data. Without one, it is the log evidence by
    importance sampling, which is never "fine": if the guide misses a mode, it is too low, and the weights do not show
    this.

    Attributes:
        elbo: the evidence lower bound.
        bias: the bias of importance sampling.
        rise: the expected increase of the validation bound in another fifth of the training, in nats per datum, by its
            slope over the last fifth; None without records.
        sampled: the log evidence by importance sampling, on all evaluated data.
        sandwich: the lower and the upper estimate; None if there are none.
        shortfall: the lower estimate minus importance sampling, paired on the data of the sandwich.
        membership: the probability that a training datum has a larger ELBO than a test datum; None if it is not known.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> findings = pvae.evaluate.all(model, x, budget=3000, progress=False)
        >>> evidence = findings["How likely is the data?"].findings[0]
        >>> evidence.status, evidence.elbo <= evidence.sampled
        ('look', True)
    """

    question: ClassVar[str] = "How likely is the data?"
    name: ClassVar[str] = "log evidence"

    elbo: Estimate | None = field(default=None, kw_only=True)
    bias: Any = field(default=None, kw_only=True)
    rise: Estimate | None = field(default=None, kw_only=True)
    sampled: Estimate | None = field(default=None, kw_only=True)
    sandwich: Sandwich | None = field(default=None, kw_only=True)
    shortfall: Estimate | None = field(default=None, kw_only=True)
    membership: Estimate | None = field(default=None, kw_only=True)

    def details(self) -> dict[str, Any]:
        """Return the ELBO, importance sampling with its bias, the sandwich and the remaining rise."""
        return {
            "elbo": self.elbo,
            "bias": self.bias,
            "rise": self.rise,
            "importance_sampling": self.sampled,
            "sandwich": None if self.sandwich is None else self.sandwich.to_json(),
            "shortfall": self.shortfall,
            "membership": self.membership,
        }

    def more_rows(self) -> list[dict[str, str]]:
        """Return rows for the ELBO, importance sampling, the sandwich and the remaining rise."""
        named = {
            "ELBO": self.elbo,
            "by importance sampling": self.sampled,
            "bias of importance sampling": self.bias,
            "lower estimate minus importance sampling": self.shortfall,
            "remaining rise of the training": self.rise,
        }
        rows = [
            {"quantity": name, "value": f"{value} nats per datum", "note": ""}
            for name, value in named.items()
            if value is not None
        ]
        return rows if self.sandwich is None else [*rows, *self.sandwich.more_rows()]

    def draw(self) -> Figure:
        """Return the distribution of log p(x) over data."""
        from pvae.plots.trust_plots import value_histogram

        values = torch.zeros(0) if self.pointwise is None else self.pointwise
        return value_histogram(values, "log p(x), nats per datum", self.question)


def evidence_finding(
    weights: WeightPass,
    sides: AnnealedPart | str,
    records: Sequence[Mapping[str, Any]] | None,
    member: Estimate | None = None,
) -> EvidenceFinding:
    """Return the finding about the log evidence.

    Args:
        weights: the pass over the weights of the data.
        sides: the lower and the upper estimate of a part of the data, or the reason why there are none.
        records: the records of the training by epoch; None if there was no training.
        member: the probability that a training datum has a larger ELBO than a test datum; None if it is not known.
    """
    rise = None if records is None else remaining_rise(records)
    cost, shortfall, sandwich = weights.cost, None, None
    value = weights.evidence
    if isinstance(sides, str):
        doubts = _doubts_of_weights(weights)
        text = f"The mean log p(x) is {value} nats per datum by importance sampling, a lower bound."
        doubts.append(f"There is no upper estimate, so a mode that the guide misses would not be found. {sides}")
    else:
        sandwich, cost = sides.sandwich, weights.cost + sides.sandwich.cost
        value = sandwich.lower
        shortfall = _shortfall(weights, sides)
        text = (
            f"The mean log p(x) is between {sandwich.lower} and {sandwich.upper} nats per datum by annealing, on "
            f"{value.count} data; importance sampling gives {weights.evidence} on {weights.evidence.count} data."
        )
        doubts = _doubts_of_sandwich(sandwich, shortfall)
    doubts += _doubts_of_training(rise, member)
    cost += 0 if member is None else FEW_PARTICLES * member.count
    unknown = ["The run has too few validation records to show whether its training had ended."]
    notices = unknown if records is not None and rise is None else []
    status = "look" if doubts else "fine"
    if sandwich is not None and sandwich.status == "bad":
        status = "bad"
    return EvidenceFinding(
        value.value, value.error, value.count, status, " ".join([text, *doubts, *notices]), cost,
        pointwise=value.pointwise, limit=f"gap, shortfall and remaining rise up to {LARGEST_BIAS:g} nats",
        source="Grosse, Ghahramani & Adams, arXiv:1511.02543; Burda et al., arXiv:1509.00519",
        elbo=weights.elbo, bias=weights.evidence.bias, rise=rise, sampled=weights.evidence, sandwich=sandwich,
        shortfall=shortfall, membership=member,
    )  # fmt: skip


def _doubts_of_weights(weights: WeightPass) -> list[str]:
    """Return the reasons why the log evidence by importance sampling is not reliable, as sentences."""
    bias = weights.evidence.bias
    size = math.nan if bias is None else abs(bias.value) + bias.margin
    doubts = [as_sentence(note) for note in weights.doubts]
    if size > LARGEST_BIAS:
        doubts.append(f"Its bias may be {size:.2g} nats, above {LARGEST_BIAS:g}.")
    return doubts


def _shortfall(weights: WeightPass, sides: AnnealedPart) -> Estimate:
    """Return the lower estimate minus importance sampling on the same data."""
    sampled, lower = weights.evidence.pointwise, sides.sandwich.lower
    if sampled is None:
        raise InputError("A comparison of two estimates needs the values of the single data.")
    return difference(lower, Estimate.mean_of(sampled[sides.rows]))


def _doubts_of_sandwich(sandwich: Sandwich, shortfall: Estimate) -> list[str]:
    """Return sentences if the sandwich is not narrow enough, or importance sampling is too low."""
    doubts = []
    if sandwich.status != "fine":
        doubts.append(as_sentence(sandwich.reason))
    if falls_short(shortfall):
        doubts.append(as_sentence(describe_shortfall("", str(shortfall))))
    return doubts


def _doubts_of_training(rise: Estimate | None, member: Estimate | None) -> list[str]:
    """Return sentences if the training is unfinished, or its data are memorised."""
    doubts = []
    if rise is not None and rise.value > max(LARGEST_BIAS, 2.0 * rise.error):
        doubts.append(f"The training is unfinished: another fifth of it would add about {rise} nats.")
    if member is not None and is_memorised(member):
        doubts.append(as_sentence(describe_memorised(f"({member.value:.0%} of the pairs)")))
    return doubts


def remaining_rise(records: Sequence[Mapping[str, Any]]) -> Estimate | None:
    """Return the increase of the validation bound in a fifth of the training, by its slope over the last fifth.

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
