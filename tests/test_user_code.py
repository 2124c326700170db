"""The place of an error is found by the folders of packages, whatever the folders of the user are called."""

from __future__ import annotations

import contextlib
import json
import runpy
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch

import pvae
from pvae.linter import check
from pvae.user_code import CodePlace, find_user_place, is_user_file

pytestmark = pytest.mark.paths

FOLDERS = ["pvae", "torch", "pyro", "my pvae", "ünï", "site-packages", "lib/python3.11"]
USER_MODEL = """\
import statistics
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import torch

import pvae


@contextmanager
def mean_of(numbers):
    yield statistics.mean(numbers)


class Failing(pvae.LatentModel):
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            with mean_of([]) as mean:
                pyro.sample("x", dist.Normal(z + mean, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))
"""
# The generator function is the innermost code of the user: contextlib calls it, and statistics raises the error.
WRONG_LINE = 1 + USER_MODEL.splitlines().index("    yield statistics.mean(numbers)")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_failing_program_is_found_in_a_folder_of_any_name(tmp_path: Path, folder: str) -> None:
    file = tmp_path / folder / "my_model.py"
    file.parent.mkdir(parents=True)
    file.write_text(USER_MODEL)
    failing = runpy.run_path(str(file))["Failing"]()
    (finding,) = check(failing, {"x": torch.zeros(3, 2)}, "elbo")
    assert f" at {file}:{WRONG_LINE}: " in finding.message


@pytest.mark.parametrize("folder", FOLDERS)
def test_files_of_the_user_may_lie_in_a_folder_of_any_name(tmp_path: Path, folder: str) -> None:
    assert is_user_file(str(tmp_path / folder / "model.py"))


@pytest.mark.parametrize("module", [pvae, torch, dist, pytest, json, contextlib])
def test_files_of_packages_and_of_the_standard_library_are_not_the_users(module) -> None:
    assert not is_user_file(module.__file__)


def test_a_package_behind_a_link_is_not_the_users(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(Path(pvae.__file__).parent)
    assert not is_user_file(str(tmp_path / "link" / "batch.py"))


def test_code_without_a_file_is_the_users_where_it_was_typed_in() -> None:
    assert is_user_file("<stdin>")
    assert is_user_file("<ipython-input-3-0a1b>")
    assert not is_user_file("<frozen importlib._bootstrap>")
    assert not is_user_file("<string>")


def test_an_error_of_packages_alone_has_no_place() -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("no JSON")
    error = caught.value
    assert find_user_place(error) == CodePlace(__file__, error.__traceback__.tb_lineno)  # type: ignore[union-attr]
    error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]
    assert find_user_place(error) is None


def test_a_syntax_error_has_the_place_of_the_error_in_its_file() -> None:
    with pytest.raises(SyntaxError) as caught:
        compile("def f(:\n", "my_model.py", "exec")
    assert str(find_user_place(caught.value)) == "my_model.py:1"
