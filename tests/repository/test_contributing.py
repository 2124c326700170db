"""CONTRIBUTING.md is right: its steps for a new objective, followed in a copy of the checkout, give one that trains."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EDIT = re.compile(
    r"<!-- (?:new file: (?P<new>\S+)|in (?P<file>\S+), before: (?P<before>[^\n]*?)) -->\n```\w+\n(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)
SECTION = re.compile(r"^## Add an objective\n(.*?)^## ", flags=re.MULTILINE | re.DOTALL)
MOST_FILES = 4
# In one process, which imports torch and pvae once: two commands, `make names`, and the tests of the section.
STEPS = """
import runpy, sys
import numpy as np
import pytest
from pvae.cli import cli

def run(*arguments):
    try:
        cli.main(list(arguments))
    except SystemExit as end:
        assert not end.code, (arguments, end.code)

run("list")
np.save("bits.npy", np.random.default_rng(0).integers(2, size=(40, 6)).astype(float))
small = ["--latent", "2", "--hidden", "8", "--epochs", "1", "--step", "eager", "--json"]
run("train", "vae", "--data", "bits.npy", "--objective", "jackknife:particles=3", "--out", "run", *small)
sys.argv = ["tests/support/public_names.py", "--add"]
runpy.run_path(sys.argv[0], run_name="__main__")
tests = [
    "tests/objectives/test_jackknife.py",
    "tests/objectives/test_every_objective.py",
    "tests/objectives/test_objectives.py::test_every_name_makes_an_objective_that_describes_itself",
    "tests/repository/test_docs_figures.py::test_the_decision_tables_name_every_objective",
    "tests/repository/test_public_names.py::test_the_list_is_complete",
]
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *tests, "-k", "jackknife or row or tables or list"]))
"""


def _edits() -> list[re.Match[str]]:
    (section,) = SECTION.findall((ROOT / "CONTRIBUTING.md").read_text())
    return list(EDIT.finditer(section))


def _apply(edit: re.Match[str], folder: Path) -> None:
    """Make one edit of the page: write a new file, or put lines before the first line that starts with a text."""
    if edit["new"]:
        assert not (folder / edit["new"]).exists()
        (folder / edit["new"]).write_text(edit["text"])
        return
    file = folder / edit["file"]
    lines = file.read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if line.startswith(edit["before"]))
    file.write_text("".join([*lines[:place], edit["text"], *lines[place:]]))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which the steps were followed."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "_build", "generated")
    for name in ("pvae", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("setup.cfg", "ruff.toml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for edit in _edits():
        _apply(edit, folder)
    return folder


def _run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_an_objective_takes_at_most_four_edits() -> None:
    assert 1 <= len({edit["new"] or edit["file"] for edit in _edits()}) <= MOST_FILES


def test_the_new_objective_trains_by_its_name_and_passes_its_test_and_the_contracts_of_all(copy: Path) -> None:
    printed = _run(copy, "-c", STEPS)
    assert "jackknife " in printed
    assert '"run": "run"' in printed
    assert "jackknife:particles=3" in (copy / "run" / "config.toml").read_text()
    passed = re.search(r"^(\d+) passed", printed, flags=re.MULTILINE)
    assert passed is not None and int(passed[1]) >= 8, printed[-2000:]


def test_the_new_files_pass_the_linter(copy: Path) -> None:
    new = [edit["new"] for edit in _edits() if edit["new"]]
    _run(copy, "-m", "ruff", "check", *new, "pvae/objectives/__init__.py")
    _run(copy, "-m", "ruff", "format", "--check", *new, "pvae/objectives/__init__.py")
