"""`ExplicitRows`: the indices that a program gives its plates itself, before a replay replaces them."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pvae.programs.sites import is_subsample

__all__ = ["ExplicitRows", "rows_of_plates"]


class ExplicitRows(Messenger):
    """Records the indices of plates such as ``pyro.plate("data", 1000, subsample=index)``.

    Pyro replays the indices that the guide drew in a plate of the same name, and so hides the indices of the model. The
    handler must be the innermost one.

    Attributes:
        indices: the indices by the name of the plate.
    """

    def __init__(self) -> None:
        super().__init__()
        self.indices: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if is_subsample(msg) and msg["value"] is not None:
            self.indices[msg["name"]] = torch.as_tensor(msg["value"]).detach()


def rows_of_plates(trace: poutine.Trace) -> dict[str, Tensor]:
    """Return the indices of each plate of a run, by the name of the plate."""
    return {name: torch.as_tensor(site["value"]) for name, site in trace.nodes.items() if is_subsample(site)}
