"""`Finding` and `Findings`: the results of a check, each with its fix."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pvae.errors import InputError, whole_reason
from pvae.user_code import find_user_place

__all__ = ["Finding", "Findings", "failure"]


#: The error of Pyro for a distribution with a size that differs from its plate's.
_MISMATCH = re.compile(r"Shape mismatch inside plate\('(.+?)'\) at site (\S+) dim (-?\d+), (\d+) vs (\d+)")


@dataclass(frozen=True)
class Finding:
    """One fault that a check has found.

    Attributes:
        kind: a short name, such as ``"missing site"``.
        subject: the site, field or parameter with the fault.
        message: the fault, in one sentence.
        fix: what to do.
        fatal: whether training would be wrong or impossible; if not, the finding is a note.
    """

    kind: str
    subject: str
    message: str
    fix: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.kind} ({self.subject}): {self.message} {self.fix}".rstrip()


class Findings(list[Finding]):
    """The findings of `check`, in order; if there are none, the list is empty, and thus false."""

    @property
    def fatal(self) -> Findings:
        """The findings that stop a training."""
        return Findings(finding for finding in self if finding.fatal)

    def require(self) -> None:
        """Raise an error if there is a fatal finding.

        Raises:
            InputError: with all fatal findings, separated by semicolons.
        """
        if self.fatal:
            raise InputError("; ".join(str(finding) for finding in self.fatal))

    def __str__(self) -> str:
        lines = [f"{'error' if finding.fatal else 'note'}: {finding}" for finding in self]
        return "\n".join(lines) or "nothing found"


def failure(error: Exception) -> Finding:
    """Return the finding for an error that a program raised, with its place in the user's code."""
    place = find_user_place(error)
    where = f" at {place}" if place else ""
    mismatch = _MISMATCH.search(str(error))
    if mismatch is not None:
        plate, site, dim, size, came = mismatch.groups()
        message = f"dimension {dim} of its distribution{where} has size {came}, and plate {plate!r} there has {size}."
        fix = "Make the dimensions of one datum a part of the event with .to_event(1), or give the plate another dim."
        return Finding("wrong shape", site, message, fix)
    message = f"a program raised {type(error).__name__}{where}: {whole_reason(error).rstrip('.')}."
    return Finding("program fails", type(error).__name__, message, "Run the programs on this batch to see the error.")
