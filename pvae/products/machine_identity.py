"""The processor, the libraries and the environment, on which the fastest library for a product depends."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pvae.products.libraries import blas_of

__all__ = ["machine_identity"]

#: Variables with these prefixes choose code paths of the libraries.
_PREFIXES = ("OPENBLAS_", "MKL_", "DNNL_", "ONEDNN_")


def machine_identity() -> dict[str, str]:
    """Return the processor, the versions of the libraries, and their environment variables, as texts."""
    blas = blas_of("numpy")
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "blas": "" if blas is None else _describe(blas),
        "scipy": version("scipy"),  # without an import, which takes time that a training does not need
        "environment": " ".join(sorted(f"{name}={value}" for name, value in os.environ.items() if _matters(name))),
    }


def _matters(variable: str) -> bool:
    return variable.startswith(_PREFIXES)


def _describe(blas: Any) -> str:
    """Return the name, the version, the code path and the number of threads of a BLAS."""
    info = blas.info()
    name = " ".join(str(info[key]) for key in ("internal_api", "version", "architecture") if info.get(key))
    return f"{name}, threads: {blas.num_threads}"


@cache
def _processor() -> str:
    """Return the name of the processor in the operating system; "" if it is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    known = dict.fromkeys(("vendor_id", "model name", "cpu family", "model", "stepping", "CPU part"), "")
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in known and not known[name.strip()]:
            known[name.strip()] = value.strip()
    return " ".join([platform.machine(), *filter(None, known.values())])
