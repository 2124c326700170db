"""The table of a comparison: as text, as JSON, and in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pvae.comparison.table.columns import CellText, TableColumn, cell_text, shown_columns
from pvae.comparison.table.rankings import Ranking
from pvae.comparison.table.row import Row, row_label
from pvae.comparison.table.text_table import draw_text_table
from pvae.comparison.table.verdict import make_verdict
from pvae.json_values import flat_values, json_value
from pvae.names import short_label
from pvae.shown_tables import ShownTable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Table"]


@dataclass(frozen=True)
class Table:
    """The rows of a comparison. All rows are compared with the first one.

    Attributes:
        rows: one for each model and objective.
        data: number of test data in the evaluation of every row.
        particles: draws of z per datum in the evaluation of every row.
        subset: a description of these data, such as ``"500 of 10,000, drawn with seed 0"``; "" if it is not known.
        rankings: the rows in the order of their validation bound at equal budgets.
        budget: the equal budget of all trainings, such as ``"60s"``; "" if there is none.
    """

    rows: tuple[Row, ...]
    data: int
    particles: int
    subset: str = ""
    rankings: tuple[Ranking, ...] = ()
    budget: str = ""

    def verdict(self) -> str:
        """Return sentences on the rows that differ from the first, those not shown to differ, and reasons to doubt."""
        return make_verdict(self.rows, self.budget)

    def caption(self) -> str:
        """Return the unit of the numbers, what their errors are, and how many seeds, data and draws they are of."""
        counts = sorted({len(row.seeds) for row in self.rows if row.seeds})
        if not counts:
            return ""
        seeds = (
            f"{counts[0]} seed" if counts == [1] else f"{' to '.join(map(str, sorted({counts[0], counts[-1]})))} seeds"
        )
        words, comma, seed = (self.subset or str(self.data)).partition(", ")
        return (
            f"Log evidences and bounds in nats per datum: means over {seeds} \u00b1 one standard error over data (sd: "
            f"standard deviation over seeds), with {self.particles} particles on {words} test data{comma}{seed}."
        )

    def describe_rankings(self) -> list[str]:
        """Return one line for each ranking at an equal budget."""
        labels = [row_label(row, self.rows) for row in self.rows]
        return [ranking.describe(labels) for ranking in self.rankings]

    def to_json(self) -> dict[str, Any]:
        """Return the rows, the verdict, and the size of the evaluation; estimates as value, error and count."""
        return {
            "data": self.data,
            "subset": self.subset,
            "particles": self.particles,
            "budget": self.budget,
            "rankings": [ranking.to_json() for ranking in self.rankings],
            "verdict": self.verdict(),
            "rows": [row.to_json() for row in self.rows],
        }

    def to_text(self, width: int | None = None, *, terminal: bool = False) -> str:
        """Return the table as text, with its caption and the failures below; a wider table is printed in parts.

        Args:
            width: number of characters in a line of the terminal; None for no limit.
            terminal: whether to draw rules and colours.
        """
        return draw_text_table(self._text_columns(), self._lines(), width, terminal=terminal)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per model and objective, with all numbers of `Row` by name, such as ``log_evidence.value``."""
        import pandas as pd

        rows = [flat_values(json_value(row.to_json(), str)) for row in self.rows]
        return pd.DataFrame(rows, index=[row_label(row, self.rows) for row in self.rows])

    def to_markdown(self) -> str:
        """Return the table in Markdown, with the same cells and lines as the text."""
        return self._shown().to_markdown()

    def to_latex(self) -> str:
        """Return the table in LaTeX, for the package ``booktabs``, with the same cells as the text.

        The lines below the table are comments above it, for a caption.
        """
        return self._shown().to_latex()

    def _repr_html_(self) -> str:
        return self._shown().to_html()

    def _shown(self) -> ShownTable:
        columns = [[short_label(cell) for cell in column] for column in self._text_columns()]
        headings, *rows = zip(*columns, strict=True)
        return ShownTable(headings, rows, lines=self._lines())

    def _lines(self) -> list[str]:
        """Return the lines below the table: its caption, and why cells have failed."""
        failures = [f"failed: {row_label(row, self.rows)}, {reason}" for row in self.rows for reason in row.failures]
        return [line for line in (self.caption(), *failures) if line]

    def __str__(self) -> str:
        return self.to_text()

    def _text_columns(self) -> list[list[str]]:
        """Return each column as its heading and the texts of its cells; the first column has the names of the rows."""
        names = ["", *(row_label(row, self.rows) for row in self.rows)]
        columns = [column for column in shown_columns(self.rows) if not column.page_only]
        return [names, *([column.heading or column.name, *self._texts(column)] for column in columns)]

    def _texts(self, column: TableColumn) -> Sequence[str]:
        return [_join(cell_text(column, row, is_first=index == 0)) for index, row in enumerate(self.rows)]


def _join(cell: CellText) -> str:
    return " ".join(filter(None, [cell.text, cell.note]))
