"""Schedules of a coefficient over the steps of training: constant, linear and cyclical."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.checks import require_number
from pvae.errors import InputError

__all__ = ["KINDS", "Schedule"]

KINDS = ("constant", "linear", "cyclical")


@dataclass(frozen=True)
class Schedule:
    """A coefficient as a function of the step, computed by tensor operations, so that it also changes in a traced step.

    Args:
        kind: ``"constant"`` (always `end`); ``"linear"`` (from `start` to `end` in `steps`, then `end`); or
            ``"cyclical"`` (`cycles` times in `steps`: linear for the share `rise` of a cycle, then `end`).
        start: the value at step 0.
        end: the value at the end.
        steps: the number of steps of the warm-up, or of all cycles together.
        cycles: the number of cycles of a cyclical schedule.
        rise: the share of a cycle in which the value rises, above 0 and at most 1.

    Raises:
        InputError: for an unknown kind, or a number out of its range.

    Source: Fu et al., Cyclical Annealing Schedule, arXiv:1903.10145, equation 6 (cyclical; 4 cycles, half rising).
    """

    kind: str = "constant"
    start: float = 0.0
    end: float = 1.0
    steps: int = 1000
    cycles: int = 4
    rise: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"A schedule must be one of {', '.join(KINDS)}; got {self.kind!r}.")
        checked = {
            "steps": require_number(self.steps, "steps of a schedule", least=1),
            "cycles": require_number(self.cycles, "cycles of a schedule", least=1),
            "rise": require_number(self.rise, "rise of a schedule", above=0, most=1),
        }
        for name, number in checked.items():
            object.__setattr__(self, name, number)

    def settings(self) -> dict[str, Any]:
        """Return the settings except the end, by the names of an objective's arguments; nothing if constant."""
        if self.kind == "constant":
            return {}
        cyclical = {"cycles": self.cycles, "rise": self.rise} if self.kind == "cyclical" else {}
        return {"schedule": self.kind, "warm_up": self.steps, "start": self.start, **cyclical}

    def at(self, step: Tensor, like: Tensor) -> Tensor:
        """Return the value at a step, a scalar.

        Args:
            step: the number of steps so far, a scalar.
            like: a tensor of the data type and device of the result.
        """
        if self.kind == "constant":
            return torch.full((), self.end, dtype=like.dtype, device=like.device)
        step = step.to(like)
        if self.kind == "linear":
            share = step / self.steps
        else:
            length = self.steps / self.cycles
            share = torch.where(step >= self.steps, 1.0, torch.remainder(step, length) / (length * self.rise))
        return self.start + (self.end - self.start) * share.clamp(max=1.0)
