"""The sentences of the verdict on evidences by annealed importance sampling."""

from __future__ import annotations

from collections.abc import Sequence

from pvae.comparison.number_formats import format_bracket, format_interval
from pvae.comparison.table.conclusions import ABOVE, BELOW
from pvae.comparison.table.row import Row, row_label
from pvae.evaluate import Estimate
from pvae.evaluate.annealing.missed_part import describe_missed_part, describe_shortfall, falls_short, misses_part
from pvae.evaluate.annealing.sandwich_finding import SMALL_GAP
from pvae.evaluate.finding import as_sentence
from pvae.names import in_words

__all__ = ["describe_annealing", "describe_ends", "has_missed_part", "has_shortfall", "is_annealed"]


def is_annealed(row: Row) -> bool:
    """Return whether the log evidence of a row is by annealed importance sampling."""
    return row.additional.get("annealing_method") is not None


def has_missed_part(row: Row) -> bool:
    """Return whether the gap on simulated data shows that the chains of a row miss a part of the posterior."""
    simulated, lower, upper = row.additional.get("simulated_gap"), row.log_evidence, row.log_evidence_upper
    if simulated is None or lower is None or upper is None:
        return False
    return misses_part(simulated.value, upper.value - lower.value)


def has_shortfall(row: Row) -> bool:
    """Return whether importance sampling of a row is shown to be below the lower estimate of annealing."""
    shortfall = row.additional.get("shortfall")
    return shortfall is not None and falls_short(shortfall)


def describe_ends(row: Row) -> str:
    """Return the ends of the difference of a row from both sides as text; "" if there is only one estimate."""
    lower, upper = row.difference_lower, row.difference_upper
    if lower is None or upper is None:
        return ""
    if row.conclusion == ABOVE:
        return f"by {format_bracket(lower, upper)}"
    if row.conclusion == BELOW:
        return f"by {format_bracket(_negative(upper), _negative(lower))}"
    return format_bracket(lower, upper, sign=True)


def _negative(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.value, estimate.error, estimate.count)


def describe_annealing(rows: Sequence[Row]) -> list[str]:
    """Return sentences on the estimator of the log evidences, and on its reliability.

    Args:
        rows: the rows of the table; rows without annealing are left out.
    """
    annealed = [row for row in rows if is_annealed(row)]
    if not annealed:
        return []
    method = annealed[0].additional["annealing_method"]
    short = _describe_shortfalls(annealed, rows)
    if all(row.log_evidence_upper is None for row in annealed):
        return [
            f"The log evidences are lower estimates by annealed importance sampling ({method}). Their distances from "
            "log p(x) are not known, so the rows are compared by their lower estimates; the method sandwich shows the "
            "distances.",
            *short,
        ]
    sentences = [
        f"The log evidences are known from both sides ({method}): a row is named only if its lower estimate exceeds "
        "the upper estimate of the other row. The upper estimates of the test data are approximate."
    ]
    return [*sentences, *_describe_gaps(annealed, rows), *short]


def _describe_shortfalls(annealed: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Return a sentence on the rows for which importance sampling is too low."""
    short = [row for row in annealed if has_shortfall(row)]
    if not short:
        return []
    names = in_words([row_label(row, tuple(rows)) for row in short])
    sizes = in_words([format_interval(row.additional["shortfall"]) for row in short])
    return [as_sentence(describe_shortfall(f"of {names}", sizes))]


def _describe_gaps(annealed: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    """Return sentences on the gaps on simulated data, and on rows with unreliable brackets."""
    label = {id(row): row_label(row, tuple(rows)) for row in annealed}
    gaps = {id(row): row.additional.get("simulated_gap") for row in annealed}
    known = [gap.value for gap in gaps.values() if gap is not None]
    sentences = []
    if known:
        extent = f"{min(known):.2g}" if len(known) == 1 else f"{min(known):.2g} to {max(known):.2g}"
        sentences.append(f"On simulated data, where they are rigorous in expectation, the gap is {extent} nats.")
    unknown = [label[id(row)] for row in annealed if gaps[id(row)] is None]
    if unknown:
        sentences.append(f"There are no simulated data for {in_words(unknown)}, so its upper estimate is not checked.")
    of_status = {
        status: [label[id(row)] for row in annealed if row.additional.get("annealing_status") == status]
        for status in ("bad", "look")
    }
    if of_status["bad"]:
        sentences.append(
            f"The bracket of {in_words(of_status['bad'])} is not reliable: for a seed, the upper estimate is below the "
            "lower one by more than four Monte-Carlo errors. Use more temperatures."
        )
    missing = [label[id(row)] for row in annealed if has_missed_part(row)]
    if missing:
        start = str(annealed[0].additional.get("annealing_start"))
        sentences.append(as_sentence(describe_missed_part(f"of {in_words(missing)}", start)))
    if of_status["look"]:
        sentences.append(
            f"A gap of {in_words(of_status['look'])} is not shown to be below {SMALL_GAP:g} nats; use more "
            "temperatures or more chains for smaller differences."
        )
    return sentences
