"""Checks of numbers that densities are made with."""

from __future__ import annotations

from collections.abc import Sequence

from pvae.errors import InputError

__all__ = ["positive", "sizes"]


def positive(owner: str, name: str, value: object) -> int:
    """Return a whole number of at least 1.

    Args:
        owner: what needs it, for the message.
        name: of the argument.
        value: what came.

    Raises:
        InputError: for anything else.
    """
    if type(value) is not int or value < 1:
        raise InputError(f"{owner} needs {name} as a whole number of at least 1; got {name}={value!r}.")
    return value


def sizes(owner: str, name: str, value: int | Sequence[int]) -> tuple[int, ...]:
    """Return one size or several as a tuple of whole numbers of at least 1.

    Raises:
        InputError: for anything else.
    """
    given = tuple(value) if isinstance(value, Sequence) else (value,)
    return tuple(positive(owner, name, each) for each in given)
