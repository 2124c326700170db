"""CSV files without formulas: spreadsheets run a cell that begins with an equals sign or a similar character."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvae.commands.options.help_sections import make_option

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["keep_formulas_option", "write_csv"]

# The first characters of formulas. The last four are full-width forms, which some spreadsheets also accept.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")

KEEP_HELP = (
    "Write text to CSV unchanged. By default, text that a spreadsheet would run as a formula is written with a ' "
    "before "
    "it."
)

keep_formulas_option = make_option("Output", "--keep-formulas", bool, False, KEEP_HELP, is_flag=True)


def write_csv(path: Path, frame: pd.DataFrame, *, keep_formulas: bool) -> None:
    """Write a table. Numbers, and text that is a number such as ``-1.5``, are never changed.

    Args:
        path: the file.
        frame: the table; its index is left out.
        keep_formulas: whether text that begins like a formula is written without an apostrophe before it.
    """
    import pandas as pd

    if not keep_formulas:
        columns = [values for _, values in frame.items()]  # by position: two columns may have one name
        safe = [column if column.dtype.kind in "biufcmM" else column.map(_without_formula) for column in columns]
        frame = pd.concat(safe, axis=1).rename(columns=_without_formula) if safe else frame
    frame.to_csv(path, index=False, lineterminator="\n")


def _without_formula(value: Any) -> Any:
    """Return a value, with an apostrophe before text that begins like a formula."""
    if not isinstance(value, str) or not value.lstrip(" ").startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value
