"""The verdict of a comparison: sentences on the rows that differ from the first row, and reasons to doubt."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pvae.comparison.number_formats import format_interval, format_percentage
from pvae.comparison.table.annealing_verdict import describe_annealing, describe_ends, is_annealed
from pvae.comparison.table.conclusions import ABOVE, BELOW, LEVEL, NOT_BRACKETED, NOT_SEPARATED, NOT_SHOWN, NOT_TESTED
from pvae.comparison.table.row import Row, row_label
from pvae.evaluate import Estimate
from pvae.evaluate.finding import as_sentence
from pvae.evaluate.membership import describe_memorised, is_memorised
from pvae.evaluate.weight_notes import MOST_UNRELIABLE
from pvae.names import in_words

__all__ = ["make_verdict"]


def make_verdict(rows: tuple[Row, ...], budget: str) -> str:
    """Return sentences on the rows that differ from the first, those not shown to differ, and reasons to doubt.

    A row is named only if its difference is shown at a family-wise level of 5 % over all rows. Rows with one seed are
    trained models, and the verdict does not name their objectives.

    Args:
        rows: the rows of the table, from `pvae.comparison.rows.make_rows`.
        budget: the equal budget of all trainings; "" if there is none.
    """
    first = rows[0]
    if not first.seeds:
        sentence = f"The first row, {row_label(first, rows)}, did not finish, so no row is compared with it."
        return " ".join([sentence, *_describe_doubts(rows)])
    if first.log_evidence is None:
        sentence = (
            f"The first row, {row_label(first, rows)}, has no log evidence of each datum, because its programs give no "
            "weight per datum (see the notes on the cells). So no row is compared with it. Its ELBO is that of all "
            "data, divided by their number."
        )
        return " ".join([sentence, *_describe_doubts(rows)])
    compared = [row for row in rows[1:] if row.difference is not None]
    left_out = _describe_left_out(rows)
    if not compared:
        none = left_out or ["There is no second row to compare with."]
        return " ".join([*none, *describe_annealing(rows), *_describe_doubts(rows)])
    sentences = [
        *_describe_differences(rows, compared),
        *left_out,
        *_describe_test(compared),
        *_describe_bias(rows, compared),
        *_describe_training(first, compared, budget),
        *_describe_doubts(rows),
    ]
    return " ".join(sentences)


def _describe_left_out(rows: tuple[Row, ...]) -> list[str]:
    """Return a sentence on each row that is not compared with the first one, and on each with fewer seeds.

    Args:
        rows: the rows of the table.
    """
    sentences = []
    for row in rows[1:]:
        if reason := _reason_left_out(row, rows[0]):
            sentences.append(f"{row_label(row, rows)} is not compared with {row_label(rows[0], rows)}: {reason}.")
    fewer = [row for row in rows[1:] if row.difference is not None and set(row.seeds) != set(rows[0].seeds)]
    if fewer:
        counts = [f"{row_label(row, rows)} ({_count_seeds(row, rows[0])})" for row in fewer]
        sentences.append(f"Only the seeds that finished in both rows are in the difference of {in_words(counts)}.")
    return sentences


def _reason_left_out(row: Row, first: Row) -> str:
    """Return why a row has no difference to the first one, as the end of a sentence; "" if it has one."""
    if not row.seeds:
        return "none of its trainings finished"
    if row.difference is not None:
        return ""
    if row.not_comparable:
        return row.not_comparable
    if row.log_evidence is None:
        return (
            "it has no log evidence of each datum, because its programs give no weight per datum; its ELBO is that of "
            "all data, divided by their number"
        )
    return "no seed finished in both rows" if not set(row.seeds) & set(first.seeds) else "it has no difference"


def _count_seeds(row: Row, first: Row) -> str:
    return f"{len(set(row.seeds) & set(first.seeds))} of {len(row.seeds) + len(row.failures)}"


def _has_one_seed(row: Row) -> bool:
    return row.difference_over_seeds is None or row.difference_over_seeds.count < 2


def _describe_differences(rows: tuple[Row, ...], compared: Sequence[Row]) -> list[str]:
    of_algorithms = [row for row in compared if not _has_one_seed(row)]
    of_models = [row for row in compared if _has_one_seed(row)]
    sentences = _describe_algorithms(rows, of_algorithms)
    if of_models:
        sentences += _describe_models(rows, of_models)
    return sentences


def _describe_algorithms(rows: tuple[Row, ...], compared: Sequence[Row]) -> list[str]:
    """Return sentences on the rows with an error over seeds."""
    first = row_label(rows[0], rows)
    sentences = [
        f"The log evidence is {conclusion} that of {first} under {names}."
        for conclusion in (ABOVE, BELOW)
        if (names := _names(rows, compared, conclusion))
    ]
    if names := _names(rows, compared, NOT_SHOWN):
        sentences.append(f"Under {names}, no difference from {first} is shown.")
    return sentences + _describe_others(rows, compared)


def _describe_models(rows: tuple[Row, ...], compared: Sequence[Row]) -> list[str]:
    """Return sentences on the rows with one seed, which are trained models."""
    first = row_label(rows[0], rows)
    models = "these two trained models" if len(compared) == 1 else "these trained models"
    labels = in_words([row_label(row, rows) for row in compared])
    one_seed = "One seed" if len(compared) == len(rows) - 1 else f"One seed of {labels}"
    sentences = [
        f"{one_seed} gives no standard error over trainings, so there is no verdict about the objectives, only about "
        f"{models}."
    ]
    sentences += [
        f"The log evidence is {word} than that of the trained model of {first} for that of {names}."
        for conclusion, word in ((ABOVE, "higher"), (BELOW, "lower"))
        if (names := _names(rows, compared, conclusion))
    ]
    if names := _names(rows, compared, NOT_SHOWN):
        sentences.append(f"For {names}, no difference from that of {first} is shown.")
    return sentences + _describe_others(rows, compared)


def _describe_others(rows: tuple[Row, ...], compared: Sequence[Row]) -> list[str]:
    """Return sentences on the rows that are not separated from the bias, and on rows without a test."""
    sentences = []
    if names := _names(rows, compared, NOT_SEPARATED):
        sentences.append(
            f"The difference of {names} from {row_label(rows[0], rows)} is not separated from the bias of the log "
            "evidence: it is smaller than the margin of the bias. Evaluate with more particles."
        )
    if names := _names(rows, compared, NOT_BRACKETED):
        sentences.append(
            f"The difference of {names} from {row_label(rows[0], rows)} is not separated by the brackets: the middles "
            "of the brackets differ, and their ends do not. Use more temperatures or more chains."
        )
    if names := _names(rows, compared, NOT_TESTED):
        sentences.append(f"There is no test for {names}: it needs two data and finite values.")
    return sentences


def _describe_test(compared: Sequence[Row]) -> list[str]:
    """Return the sentence on the test that a difference must pass."""
    tested = [row for row in compared if row.conclusion != NOT_TESTED and row.degrees]
    if not tested:
        return []
    from scipy.special import stdtrit

    degrees = min(row.degrees or 1 for row in tested)
    critical = -float(stdtrit(degrees, LEVEL / (2 * len(tested))))
    difference = (
        "end of the largest difference that is nearer to 0" if tested[0].difference_lower else "largest difference"
    )
    comparisons = "one comparison" if len(tested) == 1 else f"{len(tested)} comparisons"
    freedom = "degree of freedom" if degrees == 1 else "degrees of freedom"
    return [
        f"The probability of any wrong claim is at most 5% (t test with {degrees} {freedom}, Holm over {comparisons}); "
        f"for this, the {difference} must exceed {critical:.3g} standard errors."
    ]


def _describe_bias(rows: tuple[Row, ...], compared: Sequence[Row]) -> list[str]:
    if annealing := describe_annealing([rows[0], *compared]):
        return annealing
    unknown = [row for row in compared if not row.additional.get("removes_bias")]
    if len(unknown) < len(compared):
        sentence = "The differences are those of the log evidences without their estimated bias."
        if not unknown:
            return [sentence]
        names = in_words([row_label(row, rows) for row in unknown])
        return [sentence, f"The bias is not known for {names}, which is compared by its lower bound."]
    return ["The bias of the log evidences is not known, so the rows are compared by their lower bounds."]


def _describe_training(first: Row, compared: Sequence[Row], budget: str) -> list[str]:
    if not any(row.conclusion in (ABOVE, BELOW) for row in compared):
        return []
    if budget:
        return [f"Each training had a budget of {budget.replace('-', ' ')}."]
    columns = "see the columns training and evaluations for the cost."
    epochs = {_mean_epochs(row) for row in (first, *compared)}
    if len(epochs) == 1:
        return [f"All rows were trained for the same number of epochs; {columns}"]
    return [f"The rows were trained for different numbers of epochs; {columns}"]


def _describe_doubts(rows: tuple[Row, ...]) -> list[str]:
    return [*_describe_unfinished(rows), *_describe_khat(rows), *_describe_memorised(rows)]


def _describe_memorised(rows: tuple[Row, ...]) -> list[str]:
    memorised = [
        f"{row_label(row, rows)} ({format_percentage(row.additional['membership'].value)} of the pairs)"
        for row in rows
        if is_memorised(row.additional.get("membership"))
    ]
    return [as_sentence(describe_memorised(f"under {in_words(memorised)}"))] if memorised else []


def _describe_unfinished(rows: tuple[Row, ...]) -> list[str]:
    unfinished = [
        f"{row_label(row, rows)} (by about {format_interval(row.gain_left)})"
        for row in rows
        if row.unfinished and row.gain_left is not None
    ]
    if not unfinished:
        return []
    return [f"Training is not finished under {in_words(unfinished)}: the validation bound still rises."]


def _describe_khat(rows: tuple[Row, ...]) -> list[str]:
    sampled = [row for row in rows if row.bad_khat is not None and not is_annealed(row)]
    bad = [row for row in sampled if row.bad_khat is not None and row.bad_khat.value > MOST_UNRELIABLE]
    if not bad:
        return []
    names = in_words([row_label(row, rows) for row in bad])
    return [
        f"Under {names}, more than a tenth of the data have a k-hat that is too high, so their log evidence is not "
        "reliable; evaluate with more particles."
    ]


def _names(rows: tuple[Row, ...], compared: Sequence[Row], conclusion: str) -> str:
    """Return the names of the rows with a conclusion, with their differences; "" if there are none."""
    chosen = [row for row in compared if row.conclusion == conclusion]
    return in_words([f"{row_label(row, rows)} ({_format_difference(row)})" for row in chosen]) if chosen else ""


def _format_difference(row: Row) -> str:
    """Return the difference with its error: without its sign if the sentence names the direction."""
    if ends := describe_ends(row):
        return ends
    value, count = (row.difference.value, row.difference.count) if row.difference else (math.nan, 0)
    if row.conclusion in (ABOVE, BELOW):
        return f"by {format_interval(Estimate(abs(value), row.difference_error, count))}"
    return format_interval(Estimate(value, row.difference_error, count), sign=True)


def _mean_epochs(row: Row) -> float | None:
    epochs = row.additional.get("epochs")
    return None if epochs is None else epochs.value
