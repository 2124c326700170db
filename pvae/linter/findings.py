"""What the linter says: findings, each with its fix."""

from __future__ import annotations

from dataclasses import dataclass

from pvae.errors import InputError, first_line
from pvae.user_code import find_user_place

__all__ = ["Finding", "Findings", "failure"]


@dataclass(frozen=True)
class Finding:
    """One thing that would go wrong.

    Attributes:
        kind: a short name, such as ``"missing site"``.
        subject: the site, field or parameter concerned.
        message: what is wrong, in one sentence.
        fix: what to do.
        fatal: whether training would be wrong or impossible; otherwise it is worth knowing.
    """

    kind: str
    subject: str
    message: str
    fix: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.kind} ({self.subject}): {self.message} {self.fix}".rstrip()


class Findings(list[Finding]):
    """What `check` found, in order; falsy where nothing was."""

    @property
    def fatal(self) -> Findings:
        """The findings that stop a training."""
        return Findings(each for each in self if each.fatal)

    def require(self) -> None:
        """Raise for the first fatal finding.

        Raises:
            InputError: with all fatal findings, separated by semicolons.
        """
        if self.fatal:
            raise InputError("; ".join(str(each) for each in self.fatal))

    def __str__(self) -> str:
        return "\n".join(f"{'error' if each.fatal else 'note'}: {each}" for each in self) or "nothing found"


def failure(error: Exception) -> Finding:
    """Return the finding for an error that a program raised, with its place in the user's code."""
    place = find_user_place(error)
    where = f" at {place}" if place else ""
    message = f"a program raised {type(error).__name__}{where}: {first_line(error)}"
    return Finding("program fails", type(error).__name__, message, "Run the programs on this batch to see it.")
