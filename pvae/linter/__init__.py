"""The linter: checks before training. Each finding names the fault and its fix."""

from pvae.linter.findings import Finding, Findings
from pvae.linter.run_check import check

__all__ = ["Finding", "Findings", "check"]
