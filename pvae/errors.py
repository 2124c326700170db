"""Errors that users read without a traceback: bad input, divergence, and the loss of a process."""

from __future__ import annotations

__all__ = ["DivergenceError", "InputError", "LostProcessError", "first_line", "whole_reason"]


class InputError(ValueError):
    """Input that cannot be used. The message is one line: what was needed, what was given, and what to do.

    The command line prints the line and exits with code 2.

    Args:
        message: the line. Pyro appends a table of shapes to the errors of a program; this table is removed.

    Example:
        >>> import pvae
        >>> try:
        ...     pvae.IWAE(particles=0)
        ... except pvae.InputError as error:
        ...     print(error)
        particles needs a whole number of at least 1; got 0.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message.partition("Trace Shapes:")[0].rstrip())


class DivergenceError(RuntimeError):
    """Training met a value that is not finite and stopped; the last good checkpoint is kept.

    The command line prints the message and exits with code 3.

    Args:
        message: one line that says which value was not finite first, and what to try.
        site: the name of the Pyro site, or an empty string where a parameter was not finite first.
        tensor: the tensor of the site (``"value"``, ``"log_prob"``, ``"loc"``, ...), or the name of the parameter.
        step: the number of the training step, counted from 1.

    Example:
        >>> import pvae, torch
        >>> x = torch.eye(4).repeat(10, 1)
        >>> try:
        ...     pvae.fit("vae:latent=2:hidden=8", x, learning_rate=1e30, epochs=9, step="eager", progress=False)
        ... except pvae.DivergenceError as error:
        ...     print(error.step >= 1)
        True
    """

    def __init__(self, message: str, *, site: str = "", tensor: str = "", step: int = 0) -> None:
        super().__init__(message)
        self.site = site
        self.tensor = tensor
        self.step = step


class LostProcessError(RuntimeError):
    """Another process of a training in several processes has failed, has ended or does not answer.

    The command line prints the message and exits with code 5.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or ``"no message"``."""
    return (str(error).strip() or "no message").splitlines()[0]


def whole_reason(error: BaseException) -> str:
    """Return the reason of an error in one line: the first line of its message, or all lines of an error about a site.

    Pyro writes the shapes and the remedies below the first line, and a table of all shapes below both; the table is
    left out.
    """
    lines = [line.strip() for line in str(error).partition("Trace Shapes:")[0].splitlines() if line.strip()]
    if not lines or not lines[0].startswith("at site "):
        return first_line(error)
    sentences = [line for line in lines if not line.startswith("- ")]
    remedies = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    return f"{'. '.join(sentences)} {'; '.join(remedies)}".rstrip()
