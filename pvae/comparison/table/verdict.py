"""The verdict of a comparison: in sentences, which rows differ from the first row."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pvae.comparison.table.row import Row, row_label

__all__ = ["make_verdict"]

_ENOUGH_SEEDS = 5
_MOST_BAD_KHAT = 0.1  # share of data with a bad k-hat from which on the verdict warns


def make_verdict(rows: tuple[Row, ...]) -> str:
    """Return which rows differ from the first by more than two standard errors, which do not, and reasons to doubt.

    Args:
        rows: the rows of the table.
    """
    first = rows[0]
    if not first.seeds:
        return f"The first row, {row_label(first, rows)}, did not finish, so no row is compared with it."
    if first.log_evidence is None:
        return (
            f"The first row, {row_label(first, rows)}, has no log evidence of each datum, because its programs give no "
            "weight per datum (see the notes on the cells). So no row is compared with it. Its ELBO is that of all "
            "data, divided by their number."
        )
    compared = [row for row in rows[1:] if row.difference is not None]
    sentences = [
        *_describe_differences(rows, compared),
        *_describe_training(first, compared),
        *_describe_seeds([first, *compared]),
        *_describe_khat(rows),
    ]
    return " ".join(sentences)


def _describe_differences(rows: tuple[Row, ...], compared: Sequence[Row]) -> list[str]:
    if not compared:
        return ["There is no second row to compare with."]
    first = row_label(rows[0], rows)
    sentences = []
    for word, sign in (("above", 1), ("below", -1)):
        different = [row for row in compared if _is_different(row) and sign * _difference(row) > 0]
        if different:
            names = _join([f"{row_label(row, rows)} (by {_format_difference(row)})" for row in different])
            sentences.append(
                f"The log evidence is {word} that of {first} by more than two standard errors under {names}."
            )
    alike = [row for row in compared if not _is_different(row)]
    if alike:
        names = _join([row_label(row, rows) for row in alike])
        sentences.append(
            f"Under {names}, the log evidence does not differ from that of {first} by more than two standard errors."
        )
    return sentences


def _describe_training(first: Row, compared: Sequence[Row]) -> list[str]:
    if not any(map(_is_different, compared)):
        return []
    columns = "see the columns training and evaluations for the cost."
    epochs = {_mean_epochs(row) for row in (first, *compared)}
    if len(epochs) == 1:
        return [f"All rows were trained for the same number of epochs; {columns}"]
    return [f"The rows were trained for different numbers of epochs; {columns}"]


def _describe_seeds(rows: Sequence[Row]) -> list[str]:
    seeds = min(len(row.seeds) for row in rows)
    if seeds == 1:
        return ["One seed gives no standard error over seeds, so a difference may be due to that seed."]
    if seeds < _ENOUGH_SEEDS:
        return [f"The standard error over seeds is rough with {seeds} seeds; five or more make it reliable."]
    return []


def _describe_khat(rows: tuple[Row, ...]) -> list[str]:
    bad = [row for row in rows if row.bad_khat is not None and row.bad_khat.value > _MOST_BAD_KHAT]
    if not bad:
        return []
    names = _join([row_label(row, rows) for row in bad])
    return [
        f"Under {names}, more than a tenth of the data have a k-hat above 0.7, so their log evidence is not reliable; "
        "evaluate with more particles."
    ]


def _difference(row: Row) -> float:
    return row.difference.value if row.difference else math.nan


def _is_different(row: Row) -> bool:
    return abs(_difference(row)) > 2 * row.total_error


def _format_difference(row: Row) -> str:
    return f"{abs(_difference(row)):.2f} ± {row.total_error:.2f}"


def _mean_epochs(row: Row) -> float | None:
    epochs = row.additional.get("epochs")
    return None if epochs is None else epochs.value


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
