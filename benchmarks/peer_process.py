"""Another library in a process and an environment of its own, which takes its steps when it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


class PeerProcess:
    """A script that reads numbers of steps and prints CPU seconds for each step.

    Args:
        script: the script.
        packages: what it needs; they are installed into the environment when it is made.
        folder: the folder of the environment, which is made at first use.
        arguments: the arguments of the script.
    """

    def __init__(self, script: Path, packages: list[str], folder: Path, arguments: list[str]) -> None:
        python = folder / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        one_thread = {
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
            "OMP_NUM_THREADS": "1",
            "JAX_PLATFORMS": "cpu",
        }
        self._python, self._packages = str(python), packages
        self._process = subprocess.Popen(
            [self._python, str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **one_thread},
        )

    def versions(self) -> str:
        """Return the versions of the packages in the environment, as text."""
        program = "import sys, importlib.metadata as m; print(*[f'{p} {m.version(p)}' for p in sys.argv[1:]], sep=', ')"
        names = [package.partition("==")[0] for package in self._packages]
        return subprocess.check_output([self._python, "-c", program, *names], text=True).strip()

    def seconds(self, steps: int) -> float:
        """Return the CPU seconds of a step, over some steps.

        Args:
            steps: the number of steps.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the other library has ended; its error is above")
        return float(answer)
