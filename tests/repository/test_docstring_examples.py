"""Every public name that the reference shows has an example, which the doctests of `make check` run."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable
from typing import Any

import pytest
from page_outputs import DOCS
from public_names import public_homes

import pvae


def _shown() -> dict[str, Any]:
    """Classes and functions of pvae, and of the rooms that have a page of the reference, by their dotted names."""
    found = {f"pvae.{name}": getattr(pvae, name) for name in public_homes()}
    for page in sorted((DOCS / "reference").glob("*.md")):
        room = importlib.import_module(f"pvae.{page.stem}")
        found |= {f"{room.__name__}.{name}": getattr(room, name) for name in room.__all__}
    return {name: value for name, value in found.items() if callable(value)}


SHOWN = _shown()


def _is_run(value: Any) -> bool:
    """Whether doctest finds an example in the docstring of a class or function, at its name in its module."""
    home = importlib.import_module(value.__module__)
    found = vars(home).get(value.__name__)
    return found is value and bool(doctest.DocTestParser().get_examples(value.__doc__ or ""))


@pytest.mark.parametrize("name", sorted(SHOWN))
def test_a_public_name_has_an_example(name: str) -> None:
    assert _is_run(SHOWN[name]), f"add an example (Example:, >>> ...) to the docstring of {name}"


def _without_example() -> None:
    """Return nothing."""


def _elsewhere() -> Callable[[], None]:
    def inner() -> None:
        """Return nothing.

        >>> 1 + 1
        2
        """

    return inner


@pytest.mark.parametrize("value", [_without_example, _elsewhere()])
def test_a_missing_example_is_seen(value: Callable[[], None]) -> None:
    assert not _is_run(value)
