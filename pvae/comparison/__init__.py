"""Comparisons: train models by many objectives and seeds, evaluate them on the same data, write a table and a page.

Each name is loaded when it is first used, because a worker process imports this package but needs no figures or tables.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_MODULE_OF_NAME = {
    "Cell": "base",
    "Comparison": "run_comparison",
    "Outcome": "base",
    "PlannedComparison": "planned_comparison",
    "Row": "table.row",
    "Table": "table.comparison_table",
    "compare": "run_comparison",
    "plan_comparison": "planned_comparison",
    "usual_epochs": "planned_comparison",
}

__all__ = [
    "Cell",
    "Comparison",
    "Outcome",
    "PlannedComparison",
    "Row",
    "Table",
    "compare",
    "plan_comparison",
    "usual_epochs",
]

if TYPE_CHECKING:
    from pvae.comparison.base import Cell, Outcome
    from pvae.comparison.planned_comparison import PlannedComparison, plan_comparison, usual_epochs
    from pvae.comparison.run_comparison import Comparison, compare
    from pvae.comparison.table.comparison_table import Table
    from pvae.comparison.table.row import Row


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF_NAME:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF_NAME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
