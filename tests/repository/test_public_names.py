"""Public names stay: each name and signature of the list is still there; new ones are added to it."""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from typing import Any

from public_names import GOLDEN, folders, lines, signature


def _child(parent: Any, name: str) -> Any:
    """An attribute as it is declared, so that properties and methods are not called; modules may load it lazily."""
    if isinstance(parent, type):
        found = next((vars(base)[name] for base in parent.__mro__ if name in vars(base)), None)
        return getattr(found, "__func__", found)
    return getattr(parent, name, None)


def _now(line: str) -> str:
    """What a line of the list says today; empty if the name is gone."""
    dotted = line.split("(")[0]
    folder = max((each for each in folders() if dotted.startswith(f"{each}.")), key=len)
    *owners, name = dotted.removeprefix(f"{folder}.").split(".")
    owner = reduce(_child, owners, import_module(folder))
    value = _child(owner, name)
    if value is None and name not in dir(owner):
        return ""
    return dotted + (signature(value) if callable(value) else "")


def test_public_names_and_signatures_are_those_of_the_list() -> None:
    known = GOLDEN.read_text().splitlines()
    changed = [(line, _now(line)) for line in known if _now(line) != line]
    assert changed == [], "a public name went or changed: keep it as an alias"


def test_the_list_is_complete() -> None:
    new = sorted(set(lines()) - set(GOLDEN.read_text().splitlines()))
    assert new == [], "add these to tests/repository/public_names.txt: make names"


def test_the_list_shows_parameters_and_defaults() -> None:
    assert "pvae.IWAE(particles=5, **options)" in GOLDEN.read_text().splitlines()


def test_a_changed_name_is_seen() -> None:
    assert _now("pvae.IWAE(particles=6, **options)") == "pvae.IWAE(particles=5, **options)"
    assert _now("pvae.IWAE.no_such_method(self)") == ""
    assert _now("pvae.no_such_name") == ""
