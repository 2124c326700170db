"""The table of objectives by their names on the command line, which the decorator `named` fills."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["OBJECTIVES", "named"]

Made = TypeVar("Made", bound=Callable[..., Any])

#: command-line name -> (constructor, one line on what it is)
OBJECTIVES: dict[str, tuple[Callable[..., Any], str]] = {}


def named(name: str, line: str) -> Callable[[Made], Made]:
    """Return a decorator that registers a class or function under a name for the command line.

    Args:
        name: the name, such as ``"iwae"``, in small letters and hyphens.
        line: a description of the objective in one line, for ``pvae list``.

    Raises:
        ValueError: if another constructor has the name.
    """

    def register(made: Made) -> Made:
        known = OBJECTIVES.get(name, (made, ""))[0]
        if (known.__module__, known.__qualname__) != (made.__module__, made.__qualname__):
            raise ValueError(f"Objective names must differ; {name!r} is {known.__qualname__} already. Choose another.")
        OBJECTIVES[name] = (made, line)
        return made

    return register
