"""The comparison's table: for terminals, for other programs, and in a sentence."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from pvae.comparison.rows import Row
from pvae.evaluate import Estimate

__all__ = ["COLUMNS", "Table", "cells_of", "count", "number", "row_label", "seconds"]

COLUMNS = {
    "log evidence": "Importance-sampled log p(x) in nats per datum, higher is better: mean over seeds "
    "± standard error over data; (sd) is the standard deviation over seeds.",
    "difference": "Log evidence minus the first row's, paired datum by datum ± standard error over data; "
    "beside it the standard error over seeds.",
    "rank": "Place by ArviZ's compare on pointwise log evidence, averaged over seeds; 1 is best.",
    "ELBO": "Evidence lower bound in nats per datum ± standard error over data.",
    "gap": "Log evidence minus ELBO in nats per datum: what the guide loses.",
    "k-hat": "Share of data whose Pareto k-hat is above 0.7: there the log evidence is too low by an amount "
    "that its error does not show.",
    "ESS": "Effective sample size as a share of particles: median over data, and its 5% quantile.",
    "units": "Active latent units, mean over seeds.",
    "training": "Wall time of one training, mean over seeds.",
    "evaluations": "Decoder evaluations of one training: particles x data x epochs.",
}
_FEW_SEEDS = 5
_GAP = 2  # between two columns


def number(value: float, decimals: int = 2, sign: bool = False) -> str:
    """Return a number, or a dash where it is unknown."""
    return "-" if value is None or math.isnan(value) else f"{value:{'+' if sign else ''}.{decimals}f}"


def count(value: float) -> str:
    """Return a large count in three digits: ``1.29M``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def seconds(value: float) -> str:
    """Return a duration: ``0.4 s``, ``38 s``, ``12 min``, ``3.1 h``."""
    if value < 100:
        return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 6000 else f"{value / 3600:.1f} h"


def row_label(row: Row, rows: Sequence[Row]) -> str:
    """Return the objective's name, with the model's where there are several models, and whether it is biased."""
    name = row.objective if len({each.model for each in rows}) == 1 else f"{row.model} / {row.objective}"
    return f"{name} (biased)" if row.biased else name


def cells_of(row: Row, first: bool) -> dict[str, tuple[str, str]]:
    """Return for each column the text of a row that finished, and a smaller text beside it."""
    return {
        "log evidence": (_interval(row.log_evidence), f"({number(row.spread)})"),
        "difference": ("first row", "") if first else (_interval(row.difference, True), _over_seeds(row)),
        "rank": ("-" if row.rank is None else str(row.rank + 1), ""),
        "ELBO": (_interval(row.elbo), ""),
        "gap": (_interval(row.gap), ""),
        "k-hat": ("-" if row.bad_khat is None else f"{100 * row.bad_khat.value:.1f}%", ""),
        "ESS": (_percent(row.ess_median), f"({_percent(row.ess_low)})"),
        "units": ("-" if row.active_units is None else f"{row.active_units.value:.3g}", ""),
        "training": ("-" if row.seconds is None else seconds(row.seconds.value), ""),
        "evaluations": ("-" if row.decoder_evaluations is None else count(row.decoder_evaluations.value), ""),
    }


def _interval(estimate: Estimate | None, sign: bool = False) -> str:
    if estimate is None:
        return "-"
    # Two digits of a small error, so that a paired difference does not read as ± 0.00.
    decimals = 2 if not 0 < estimate.error < 0.095 else 3
    return f"{number(estimate.value, decimals, sign)} ± {number(estimate.error, decimals)}"


def _over_seeds(row: Row) -> str:
    estimate = row.difference_over_seeds
    return "" if estimate is None or math.isnan(estimate.error) else f"({estimate.error:.3f} seeds)"


def _percent(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{100 * estimate.value:.0f}%"


@dataclass(frozen=True)
class Table:
    """Rows of a comparison, the first of which the others are compared with.

    Attributes:
        rows: one per model and objective.
        data: number of data that all were judged on.
        particles: particles that all were judged with.
    """

    rows: tuple[Row, ...]
    data: int
    particles: int

    def verdict(self) -> str:
        """Return in sentences which rows differ from the first by two standard errors, and which do not."""
        first, others = self.rows[0], [row for row in self.rows[1:] if row.difference is not None]
        if first.log_evidence is None:
            return f"The first row, {self._name(first)}, did not finish, so nothing is compared with it."
        sentences = self._sentences(first, others) if others else ["There is no second row to compare with."]
        seeds = min(len(row.seeds) for row in (first, *others))
        if seeds == 1:
            sentences.append("One seed gives no error over seeds: a difference may be the luck of that seed.")
        elif seeds < _FEW_SEEDS:
            sentences.append(f"The error over seeds is rough with {seeds} seeds; five or more make it firm.")
        return " ".join(sentences + self._doubts())

    def _sentences(self, first: Row, others: Sequence[Row]) -> list[str]:
        apart = [row for row in others if row.difference and abs(row.difference.value) > 2 * row.total_error]
        alike = [row for row in others if row not in apart]
        lines = []
        for word, side in (("above", 1), ("below", -1)):
            found = [row for row in apart if row.difference and row.difference.value * side > 0]
            if found:
                names = _joined([self._name(row) + " by " + self._size(row) for row in found])
                lines.append(f"In log evidence, more than two standard errors {word} {self._name(first)}: {names}.")
        if apart:
            lines.append("This is at the same number of epochs; what they cost stands under training and evaluations.")
        if alike:
            names = _joined([self._name(row) for row in alike])
            lines.append(f"Not to be told apart from {self._name(first)} within two standard errors: {names}.")
        return lines

    def _doubts(self) -> list[str]:
        bad = [row for row in self.rows if row.bad_khat is not None and row.bad_khat.value > 0.1]
        if not bad:
            return []
        names = _joined([self._name(row) for row in bad])
        return [f"More than a tenth of the data have k-hat above 0.7 under {names}: judge with more particles."]

    def _name(self, row: Row) -> str:
        return row_label(row, self.rows)

    def _size(self, row: Row) -> str:
        difference = row.difference
        value = abs(difference.value) if difference else math.nan
        return f"{value:.2f} ± {row.total_error:.2f}"

    def to_json(self) -> dict[str, Any]:
        """Return the rows, the verdict, and what all were judged on; estimates as value, error and count."""
        return {
            "data": self.data,
            "particles": self.particles,
            "verdict": self.verdict(),
            "rows": [row.to_json() for row in self.rows],
        }

    def to_text(self, width: int | None = None, *, terminal: bool = False) -> str:
        """Return the table as text, in two parts where it is wider than `width`, with the failures below.

        Args:
            width: columns of the terminal; None for no limit.
            terminal: draw rules and colours.
        """
        parts = _parts(self._texts(), width)
        buffer = io.StringIO()
        console = Console(file=buffer, width=width or 400, force_terminal=terminal, highlight=False)
        for index, columns in enumerate(parts):
            if index and not terminal:  # a rule of its own sets the parts apart on a terminal
                console.print()
            console.print(_drawn(columns, terminal))
        for row in self.rows:
            for failure in row.failures:
                console.print(Text(f"failed: {self._name(row)}, {failure}"), soft_wrap=True)
        return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())

    def __str__(self) -> str:
        return self.to_text()

    def _texts(self) -> dict[str, list[str]]:
        """Return the heading and the cells of each column, the names first."""
        rows = [cells_of(row, index == 0) if row.seeds else {} for index, row in enumerate(self.rows)]
        texts = {
            title: [_HEADINGS.get(title, title), *(" ".join(filter(None, row.get(title, ("-",)))) for row in rows)]
            for title in COLUMNS
        }
        return {"": ["", *map(self._name, self.rows)], **texts}


def _parts(texts: Mapping[str, Sequence[str]], width: int | None) -> list[list[Sequence[str]]]:
    """Return the columns in parts that fit the width, each with the names in front."""
    names, *others = texts.values()
    parts, used = [[names]], 0
    room = math.inf if width is None else width - max(map(len, names)) - _GAP
    for column in others:
        size = max(map(len, column)) + _GAP
        if used + size > room and len(parts[-1]) > 1:
            parts.append([names])
            used = 0
        parts[-1].append(column)
        used += size
    return parts


def _drawn(columns: Sequence[Sequence[str]], terminal: bool) -> RichTable:
    # The rule's own gap counts towards the two columns between cells.
    padding, rule = ((0, _GAP - 1, 0, 0), box.SIMPLE_HEAD) if terminal else ((0, _GAP, 0, 0), None)
    drawn = RichTable(box=rule, pad_edge=False, padding=padding, header_style="bold")
    for index, column in enumerate(columns):
        drawn.add_column(Text(column[0]), justify="right" if index else "left", no_wrap=True)
    for cells in zip(*(column[1:] for column in columns), strict=True):
        drawn.add_row(*map(Text, cells))
    return drawn


_HEADINGS = {
    "log evidence": "log evidence (sd)",
    "difference": "difference to first",
    "k-hat": "k-hat>0.7",
    "ESS": "ESS (5%)",
}


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
