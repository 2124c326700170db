"""The two ways a run ends badly that a person should read about: bad input, and divergence."""

from __future__ import annotations

__all__ = ["DivergenceError", "InputError", "first_line"]


class InputError(ValueError):
    """Input that cannot be used, in one line: what was needed, what came, what to do.

    The command line prints the line and exits with code 2.

    Args:
        message: the line. Pyro raises an error of a program anew, with a table of shapes behind it: that is left out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message.partition("Trace Shapes:")[0].rstrip())


class DivergenceError(RuntimeError):
    """Training met a value that is not finite, and stopped with the last good checkpoint kept.

    The command line prints the message and exits with code 3.

    Args:
        message: one line that says what went non-finite first, and what to try.
        site: the Pyro site concerned, or an empty string where a parameter went non-finite first.
        tensor: which tensor of the site (``"value"``, ``"log_prob"``, ``"loc"``, ...) or which parameter.
        step: the training step, counted from 1.
    """

    def __init__(self, message: str, *, site: str = "", tensor: str = "", step: int = 0) -> None:
        super().__init__(message)
        self.site = site
        self.tensor = tensor
        self.step = step


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or "no message").splitlines()[0]
