"""`Finding` and `Findings`: the results of a check, each with its fix."""

from __future__ import annotations

from dataclasses import dataclass

from pvae.errors import InputError, whole_reason
from pvae.user_code import find_user_place

__all__ = ["Finding", "Findings", "failure"]


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
    """The findings of `check`, in order; an empty list, which is false, if there are none."""

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
    message = f"a program raised {type(error).__name__}{where}: {whole_reason(error).rstrip('.')}."
    return Finding("program fails", type(error).__name__, message, "Run the programs on this batch to see it.")
