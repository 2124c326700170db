"""The page on the architecture names the folders, files and functions that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from floors import FLOORS, RUNS_PROGRAMS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
STEP = re.compile(r"^\d+\. `(pvae/[\w/]+\.py)`: (.*(?:\n   .*)*)", re.MULTILINE)


def _definitions(path: Path) -> set[str]:
    """Functions and classes of a file, and methods with the name of their class."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return names


@pytest.mark.parametrize(("file", "text"), STEP.findall(PAGE))
def test_a_step_starts_with_functions_of_its_file(file: str, text: str) -> None:
    named = re.findall(r"`([\w.]+)`", text)
    assert named and named[0] in _definitions(ROOT / file)
    dotted = [name for name in named if re.fullmatch(r"[A-Z]\w+\.\w+", name) and not name.endswith(".json")]
    assert set(dotted) <= _definitions(ROOT / file)


def test_the_walks_are_as_long_as_they_are() -> None:
    assert len(STEP.findall(PAGE)) == 36


def test_the_tree_lists_every_folder() -> None:
    tree = re.search(r"```text\npvae/\n(.*?)```", PAGE, re.DOTALL)
    assert tree is not None
    listed: list[str] = []
    for line in tree[1].splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split("/")[0].strip()
        listed.append(name if depth == 1 else f"{listed[-1].split('/')[0]}/{name}")
    package = ROOT / "pvae"
    assert listed == sorted(path.parent.relative_to(package).as_posix() for path in package.rglob("*/__init__.py"))


def test_the_floors_are_those_of_the_test() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", PAGE, re.MULTILINE)
    floors = [{name.removesuffix(".py") for name in re.findall(r"`([\w.]+?)/?`", row)} for _, row in rows]
    assert floors == [floor - {"__main__"} for floor in FLOORS]


def test_every_file_that_the_page_names_is_there() -> None:
    missing = [name for name in re.findall(r"`(pvae/[\w/]+\.py)`", PAGE) if not (ROOT / name).exists()]
    assert missing == []


def test_the_exceptions_are_those_of_the_test() -> None:
    section = PAGE.split("## Who runs a user's program")[1].split("\n## ")[0]
    assert set(re.findall(r"`(pvae/[\w/]+\.py)`", section.split("|---|---|")[1])) == set(RUNS_PROGRAMS)
