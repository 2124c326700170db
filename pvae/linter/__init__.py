"""The linter: checks of a model and an objective before training. Each finding names a fault and its fix."""

from pvae.linter.findings import Finding, Findings
from pvae.linter.run_check import check

__all__ = ["Finding", "Findings", "check"]
