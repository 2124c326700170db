"""`Records`: the records of a run as a list that shows itself as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pvae.shown_tables import ShownTable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Records"]

#: The number of epochs at the start and at the end that a notebook shows.
_SHOWN = 5


class Records(list[dict[str, Any]]):
    """The records of a run, a list with one dictionary per epoch and event; `pvae.Run` describes their keys.

    >>> records = Records([{"epoch": 1, "loss": 27.25}, {"epoch": 2, "loss": 25.5}])
    >>> print(records.to_markdown(), end="")
    | epoch | loss |
    |---|---|
    | 1 | 27.25 |
    | 2 | 25.5 |
    """

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per record and one column per number; NaN where a record does not have a number."""
        import pandas as pd

        return pd.DataFrame(list(self))

    def to_markdown(self) -> str:
        """Return the numbers of the epochs as a table in Markdown, with six significant digits."""
        return self._table(self._epochs()).to_markdown()

    def to_latex(self) -> str:
        """Return the numbers of the epochs as a table in LaTeX, for the package ``booktabs``."""
        return self._table(self._epochs()).to_latex()

    def _epochs(self) -> list[dict[str, Any]]:
        return [record for record in self if "event" not in record]

    def _table(self, records: Sequence[dict[str, Any] | None]) -> ShownTable:
        """Return the table of records; None is a row of dots."""
        names = list(dict.fromkeys(name for record in records if record is not None for name in record))
        rows = [["…"] * len(names) if record is None else [_cell(record, name) for name in names] for record in records]
        events = [
            ", ".join(f"{name} {_text(value)}" for name, value in record.items())
            for record in self
            if "event" in record
        ]
        return ShownTable([name.replace("_", " ") for name in names], rows, lines=events)

    def _repr_html_(self) -> str:
        epochs: list[dict[str, Any] | None] = list(self._epochs())
        if len(epochs) > 2 * _SHOWN + 1:
            epochs = [*epochs[:_SHOWN], None, *epochs[-_SHOWN:]]
        return self._table(epochs).to_html()


def _cell(record: dict[str, Any], name: str) -> str:
    return _text(record[name]) if name in record else ""


def _text(value: Any) -> str:
    """Return a number with six significant digits; None is a number that was not finite."""
    if value is None:
        return "not finite"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
