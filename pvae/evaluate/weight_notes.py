"""Which weights of data are not reliable, as notes and as a list of data."""

from __future__ import annotations

from torch import Tensor

from pvae.evaluate.arviz_versions import good_khat
from pvae.evaluate.weight_trust import WeightTrust

__all__ = ["FEWEST_EFFECTIVE", "LARGEST_KL", "MOST_UNRELIABLE", "suspect_data", "weight_notes"]

#: If the effective sample size differs from the number of particles by less than this, the weights are constant.
_LARGEST_ROUNDING = 1e-6

FEWEST_EFFECTIVE = 10.0
"""The effective sample size of a datum below which its log evidence is not reliable. To first order, the logarithm of a
mean with this effective sample size is too low by 1 / (2 * 10) = 0.05 nats."""

MOST_UNRELIABLE = 0.1
"""The share of data with unreliable weights above which `log_evidence` and the verdict of a comparison warn."""

LARGEST_KL = 1.0
"""A datum with a larger KL(q to p(z given x)) in nats is suspect; `pvae.evaluate.gaps` has the same limit."""

#: Log weights with a smaller variance are constant up to rounding.
_LEAST_VARIANCE = 1e-6


def suspect_data(khat: Tensor, ess: Tensor, particles: int, trust: WeightTrust) -> Tensor:
    """Return whether the weights show that the guide is far from the posterior of each datum, shape (data,).

    Args:
        khat: Pareto k-hat of each datum, shape (data,).
        ess: effective sample size of each datum, shape (data,).
        particles: the number of draws per datum.
        trust: the distance of the guide from the posterior of each datum.
    """
    # Weights that are nearly constant have no tail with a shape.
    has_tail = ~(trust.log_weight_variance <= _LEAST_VARIANCE)
    high_khat = has_tail & ~(khat <= good_khat(particles))
    return high_khat | ~(trust.kl <= LARGEST_KL) | ~(ess >= FEWEST_EFFECTIVE)


def weight_notes(ess: Tensor, khat: Tensor, particles: int, tolerated: float = 0.0) -> list[str]:
    """Return a note on each reason why the log evidence is not reliable; `log_evidence` warns with the same notes.

    Args:
        ess: effective sample size of each datum, shape (data,).
        khat: Pareto k-hat of each datum, shape (data,).
        particles: the number of draws per datum from which these two were estimated.
        tolerated: the share of data with a high k-hat, or with few effective particles, that needs no note.
    """
    notes = []
    most = tolerated * len(ess)
    undefined = int(ess.isnan().sum())
    if undefined:
        notes.append(
            f"{undefined} of {len(ess)} data have no finite weight, because model and guide do not overlap there"
        )
    are_constant = particles > 1 and bool((ess > particles - _LARGEST_ROUNDING).all())  # the guide is the posterior
    if particles <= 20 and not are_constant:
        notes.append("Pareto k-hat needs at least 21 particles")
    elif (above := int((khat > good_khat(particles)).sum())) > most:
        notes.append(
            f"{above} of {len(khat)} data have Pareto k-hat above {good_khat(particles):.2f}: "
            "their log evidence is too low by an amount that the error does not include"
        )
    elif particles > 20 and (few := int((ess < FEWEST_EFFECTIVE).sum())) > most:
        notes.append(
            f"{few} of {len(ess)} data have an effective sample size below {FEWEST_EFFECTIVE:g}: "
            "their log evidence is too low by an amount that the error does not include"
        )
    return notes
