"""`simulated`: a model that draws its observed sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.poutine.uncondition_messenger import UnconditionMessenger

__all__ = ["simulated"]


class _Simulation(UnconditionMessenger):
    """Pyro's `uncondition` without a change of ``pyro.deterministic``.

    Pyro draws such a site again, from a Delta that the plate has expanded, to shape (data, data) in a plate over data.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["infer"].get("_deterministic"):
            super()._pyro_sample(msg)


def simulated(model: Callable[..., Any]) -> Callable[..., Any]:
    """Return a model that draws its observed sites.

    Args:
        model: a program, or a handler around one.
    """
    program: Callable[..., Any] = _Simulation()(model)
    return program
