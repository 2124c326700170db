"""Training: `fit`, the training step and its loop, and the folder of a run.

Each name is loaded when it is first used, because the help of the command line reads the names of the figures here,
without importing torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_MODULE_OF_NAME = {
    "Run": "run",
    "fit": "trainer",
    "fit_prior": "fitted_priors.replace_prior",
    "isolated": "devices",
    "open_run": "run",
}

__all__ = ["Run", "fit", "fit_prior", "isolated", "open_run"]

if TYPE_CHECKING:
    from pvae.train.devices import isolated
    from pvae.train.fitted_priors.replace_prior import fit_prior
    from pvae.train.run import Run, open_run
    from pvae.train.trainer import fit


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF_NAME:
        return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF_NAME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
