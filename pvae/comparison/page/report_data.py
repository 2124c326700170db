"""The results and settings that the page of a comparison shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pvae.comparison.base import Outcome
from pvae.comparison.rows import finished
from pvae.comparison.table.comparison_table import Table
from pvae.comparison.table.row import Row, relabelled, row_label
from pvae.comparison.table.row_outcomes import RowOutcomes
from pvae.data import Schema

__all__ = ["ReportData"]

_LETTERS = 26
_SAME = 1e-6  # relative difference of evidences that differ only by rounding
_MOST_ROWS_WITH_PICTURES = 12  # with more, the page would be too large


@dataclass(frozen=True)
class ReportData:
    """The results and settings of a comparison.

    Attributes:
        table: the table.
        outcomes: the outcomes of all cells, in order.
        data: `Splits.summary()`.
        settings: options by heading.
        rerun: the command or call that makes the page again.
        notes: lines on the results, for the head of the page.
        data_notes: lines on the preparation of the data.
        arrays: for the label of each finished cell, the arrays of `draw_arrays`.
    """

    table: Table
    outcomes: Sequence[Outcome]
    data: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    rerun: str
    notes: Sequence[str] = ()
    data_notes: Sequence[str] = ()
    arrays: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    @property
    def data_name(self) -> str:
        """Name of the data."""
        return str(self.data.get("name", "data"))

    @property
    def schema(self) -> Schema:
        """Names, types and labels of the data."""
        return Schema.from_record(self.data.get("schema", {}))

    def label(self, row: Row) -> str:
        """Return the name of a row."""
        return row_label(row, self.table.rows)

    def key(self, row: Row) -> str:
        """Return the short name of a row in figures and sentences: A, B, ..., Z, AA, AB, ..."""
        index = next(place for place, other in enumerate(self.table.rows) if other is row)
        letters = ""
        while index >= 0:
            letters = chr(ord("A") + index % _LETTERS) + letters
            index = index // _LETTERS - 1
        return letters

    def keyed_rows(self) -> tuple[Row, ...]:
        """Return the rows with their keys as names, for sentences that use the keys of the figures."""
        return tuple(relabelled(row, self.key(row)) for row in self.table.rows)

    def finished_outcomes(self, row: Row) -> list[Outcome]:
        """Return the finished outcomes of a row."""
        names = (row.model, row.objective)
        return [outcome for outcome in finished(self.outcomes) if (outcome.cell.model, outcome.cell.objective) == names]

    def duplicate_of(self, row: Row) -> Row | None:
        """Return the first row before this one with the same log evidence of each datum and seed, or None.

        An importance-weighted bound of one particle is the ELBO, for example.
        """
        own = self._evidence(row)
        if own is None:
            return None
        for other in self.table.rows:
            if other is row:
                return None
            values = self._evidence(other)
            if values is not None and values.shape == own.shape and torch.allclose(values, own, rtol=_SAME, atol=0):
                return other
        return None

    def distinct_rows(self) -> list[Row]:
        """Return the rows without those that have the results of an earlier row."""
        return [row for row in self.table.rows if self.duplicate_of(row) is None]

    def _evidence(self, row: Row) -> Tensor | None:
        return RowOutcomes(self.finished_outcomes(row)).pointwise("log_evidence") if row.seeds else None

    def arrays_of(self, outcome: Outcome) -> Mapping[str, Tensor]:
        """Return the arrays for the pictures of a cell; empty if it has none."""
        return self.arrays.get(outcome.cell.label, {})

    def rows_with_pictures(self) -> list[tuple[Row, Outcome]]:
        """Return each row with the outcome of its first seed, because the best seed would not be typical."""
        outcomes_by_row = [(row, self.finished_outcomes(row)) for row in self.distinct_rows()]
        return [(row, outcomes[0]) for row, outcomes in outcomes_by_row if outcomes][:_MOST_ROWS_WITH_PICTURES]
