"""The counts of what the torture tests did, at the end of their output."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

MOST = "most"  # at the start of a name: the largest value counts, not the sum


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the sum of every number that a test recorded by `record_property`."""
    totals: dict[str, float] = defaultdict(float)
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            totals[name] = max(totals[name], value) if name.startswith(MOST) else totals[name] + value
    for name, value in sorted(totals.items()):
        terminalreporter.write_line(f"torture: {name}: {value:g}")
