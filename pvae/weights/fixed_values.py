"""`FixedValues`: run a program at given values of its latent sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

__all__ = ["FixedValues"]


class FixedValues(Messenger):
    """Gives latent sites fixed values, for example from another run; they remain latent.

    Args:
        values: the values by site.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True
