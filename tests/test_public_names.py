"""Public names stay: each name and signature of the list is still there; new ones are added to it."""

from __future__ import annotations

from pathlib import Path

from public_names import lines

GOLDEN = Path(__file__).with_name("public_names.txt")


def test_public_names_and_signatures_are_those_of_the_list() -> None:
    known = GOLDEN.read_text().splitlines()
    now = list(lines())
    lost = sorted(set(known) - set(now))
    assert lost == [], "a public name went or changed: keep it as an alias"
    new = sorted(set(now) - set(known))
    assert new == [], "add these with `python tests/public_names.py > tests/public_names.txt`"


def test_the_list_shows_parameters_and_defaults() -> None:
    assert "pvae.IWAE(particles=5, **options)" in GOLDEN.read_text().splitlines()
