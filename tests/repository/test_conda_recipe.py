"""The conda recipe has the name, the version, the requirements and the entry point of setup.cfg."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest

import pvae

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: it comes with the documentation's packages")

ROOT = Path(__file__).resolve().parents[2]
#: Packages with another name on conda-forge than on PyPI.
CONDA_NAMES = {"lazy-loader": "lazy_loader", "matplotlib": "matplotlib-base", "tomli_w": "tomli-w", "torch": "pytorch"}


def _recipe() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "conda" / "meta.yaml").read_text())


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def _split(requirement: str) -> tuple[str, str]:
    """Return the name of a package, and its versions without spaces."""
    name, versions = re.fullmatch(r"([\w.-]+?)\s*((?:[<>=!~].*)?)", requirement.strip()).groups()  # type: ignore[union-attr]
    return name, versions.replace(" ", "")


def _lines(value: str) -> list[str]:
    return [line for line in value.split("\n") if line.strip()]


def test_the_recipe_requires_what_the_package_requires() -> None:
    options = _setup()["options"]
    wanted = {("python", options["python_requires"])}
    for name, versions in map(_split, _lines(options["install_requires"])):
        wanted.add((CONDA_NAMES.get(name, name), versions))
    assert set(map(_split, _recipe()["requirements"]["run"])) == wanted


def test_the_recipe_builds_with_the_setuptools_of_pyproject() -> None:
    (wanted,) = re.findall(r'"setuptools(>=\d+)"', (ROOT / "pyproject.toml").read_text())
    assert ("setuptools", wanted) in map(_split, _recipe()["requirements"]["host"])


def test_the_recipe_names_this_version_and_its_command() -> None:
    recipe, setup = _recipe(), _setup()
    assert recipe["package"] == {"name": setup["metadata"]["name"], "version": pvae.__version__}
    assert recipe["build"]["entry_points"] == _lines(setup["options.entry_points"]["console_scripts"])
    assert recipe["about"]["license"] == setup["metadata"]["license"]
