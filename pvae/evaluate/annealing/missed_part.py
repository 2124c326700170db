"""Rules, and their sentences, for a part of the posterior that annealing chains or the guide miss.

The table of a comparison, its page and the evaluations of one model use the same rules and the same words.
"""

from __future__ import annotations

from pvae.evaluate.base import Estimate

__all__ = ["MISSED_PART", "UNDERESTIMATED", "describe_missed_part", "describe_shortfall", "falls_short", "misses_part"]

MUCH_LARGER = 0.5
"""A gap on simulated data that is larger than that on the data by this number of nats shows that the chains miss a part
of the posterior. It is a convention of pvae."""

LARGEST_SHORTFALL = 0.1
"""Importance sampling that is further below the lower estimate of annealing, in nats, is not reliable."""

MISSED_PART = "chains miss a part of the posterior"
UNDERESTIMATED = "importance sampling is too low"


def misses_part(simulated_gap: float, gap: float) -> bool:
    """Return whether the gap on simulated data shows that the chains miss a part of the posterior.

    The reverse chains of simulated data start from exact draws of the posterior, also where the forward chains never
    go. The reverse chains of the data start from the ends of the forward chains.

    Args:
        simulated_gap: the upper minus the lower estimate on simulated data, in nats per datum.
        gap: the same difference on the data.
    """
    return simulated_gap > abs(gap) + MUCH_LARGER


def describe_missed_part(place: str, start: str) -> str:
    """Return the sentence about chains that miss a part of the posterior, without a full stop.

    Args:
        place: a text that names the model, such as ``"of B"``; "" for a single model.
        start: where the chains start, ``"prior"`` or ``"guide"``.
    """
    advice = (
        "start the chains from the prior, or use more temperatures" if start == "guide" else "use more temperatures"
    )
    return (
        f"the gap on simulated data{_spaced(place)} is much larger than the gap on the data, so the chains from the "
        f"{start} miss a part of the posterior, and the log evidence may be too low; {advice}"
    )


def falls_short(shortfall: Estimate) -> bool:
    """Return whether importance sampling is too low, by more than two standard errors.

    Args:
        shortfall: the lower estimate of annealing minus importance sampling, paired by datum.
    """
    return shortfall.value > LARGEST_SHORTFALL + 2.0 * shortfall.error


def describe_shortfall(place: str, shortfall: str) -> str:
    """Return the sentence about importance sampling that is too low, without a full stop.

    Args:
        place: a text that names the model, such as ``"of B"``; "" for a single model.
        shortfall: the difference in nats, with its error.
    """
    return (
        f"on the same data, importance sampling{_spaced(place)} is {shortfall} nats below the lower estimate of "
        "annealing, so the guide misses a part of the posterior"
    )


def _spaced(words: str) -> str:
    return f" {words}" if words else ""
