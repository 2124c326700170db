"""Commands of pvae, run in this process or in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from pvae.cli import cli

ROOT = Path(__file__).resolve().parents[2]
#: PYTHONPATH of a process that finds pvae and the support of the tests.
PATH_OF_TESTS = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def run(*arguments: str) -> Done:
    """Run a command in this process."""
    ended = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    return Done(ended.exit_code, ended.stdout, ended.stderr)


def run_script(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the tests in a process of its own, which finds pvae and the support of the tests."""
    environment = {**os.environ, "PYTHONPATH": PATH_OF_TESTS}
    command = [sys.executable, str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


def in_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "pvae", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120, **options)
