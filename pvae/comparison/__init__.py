"""Comparisons: the same models under many objectives and seeds, judged alike, in a table and on a page.

Names are loaded when they are first used: a worker process starts here, and needs neither figures nor tables.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Cell": "base",
    "Comparison": "study",
    "Outcome": "base",
    "Row": "rows",
    "Table": "table",
    "compare": "study",
    "usual_epochs": "study",
}

__all__ = ["Cell", "Comparison", "Outcome", "Row", "Table", "compare", "usual_epochs"]

if TYPE_CHECKING:
    from pvae.comparison.base import Cell, Outcome
    from pvae.comparison.rows import Row
    from pvae.comparison.study import Comparison, compare, usual_epochs
    from pvae.comparison.table import Table


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
