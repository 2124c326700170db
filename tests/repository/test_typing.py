"""A user's script in an editor: basedpyright finds pvae as an installed package, and says what is wrong.

`make check` runs mypy on the same script.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKER = Path(sys.executable).with_name("basedpyright")


@pytest.mark.skipif(not CHECKER.exists(), reason="basedpyright is not installed; the extra test has it")
def test_a_script_of_a_user_has_the_types_that_it_says(tmp_path: Path) -> None:
    project = shutil.copytree(ROOT / "tests" / "typing", tmp_path / "project")  # outside of the checkout
    command = [str(CHECKER), "--pythonpath", sys.executable]
    checked = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, timeout=300)
    assert "0 errors" in checked.stdout, checked.stdout


def test_editors_find_the_installed_package() -> None:
    """An editable install of pvae is a path, because type checkers run no finder."""
    assert "--config-settings editable_mode=compat" in (ROOT / "Makefile").read_text()
