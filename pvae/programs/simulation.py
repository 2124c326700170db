"""`simulated`: a model that draws its observed sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.poutine.uncondition_messenger import UnconditionMessenger

__all__ = ["simulated"]


class _Simulation(UnconditionMessenger):
    """Pyro's `uncondition`, which leaves ``pyro.deterministic`` as it is.

    Pyro draws such a site again, from a Delta that the plate has expanded: of shape (data, data) in a plate over data.
    """

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["infer"].get("_deterministic"):
            super()._pyro_sample(msg)


def simulated(model: Callable[..., Any]) -> Callable[..., Any]:
    """Return a model whose observed sites are drawn.

    Args:
        model: a program, or a handler around one.
    """
    program: Callable[..., Any] = _Simulation()(model)
    return program
