"""The environment in which a benchmark runs."""

from __future__ import annotations

import os
import sys

#: These variables choose slower code of the BLAS that NumPy uses.
SLOWING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def restart_without_slowing_variables() -> None:
    """Start the script again without the variables of `SLOWING`, if any is set: NumPy reads them when it starts."""
    found = [name for name in SLOWING if name in os.environ]
    if found:
        print(f"{' and '.join(found)} would slow NumPy down; the script starts again without", flush=True)
        kept = {name: value for name, value in os.environ.items() if name not in SLOWING}
        os.execve(sys.executable, sys.orig_argv, kept)
