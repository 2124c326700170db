"""Print the coverage of lines and branches, and fail if that of lines is low: ``covered_lines.py FILE PERCENT``."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def rates(report: Path) -> tuple[float, float]:
    """Return the percentages of covered lines and branches of a report in the XML of coverage.py."""
    root = ElementTree.parse(report).getroot()
    return 100 * float(root.attrib["line-rate"]), 100 * float(root.attrib["branch-rate"])


if __name__ == "__main__":
    lines, branches = rates(Path(sys.argv[1]))
    print(f"{lines:.1f} % of the lines and {branches:.1f} % of the branches of pvae/ run in the tests.")
    if lines < float(sys.argv[2]):
        sys.exit(f"At least {sys.argv[2]} % of the lines have to run: add tests for those that the report lists.")
