"""The inverse temperatures of an annealing path, from 0 (the start) to 1 (the posterior)."""

from __future__ import annotations

import torch
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError

__all__ = ["SCHEDULES", "make_temperatures"]

SCHEDULES = ("sigmoid", "linear", "geometric")

#: The sigmoid schedule runs over the arguments -4 to 4.
_WIDTH = 4.0
#: The first inverse temperature above 0 of the geometric schedule with many temperatures.
_LEAST = 1e-4


def make_temperatures(count: int, schedule: str) -> Tensor:
    """Return the inverse temperatures b_0 = 0 < b_1 < ... < b_T = 1, float64, shape (count + 1,).

    Args:
        count: T, the number of increments.
        schedule: ``"sigmoid"`` has small increments at both ends; ``"linear"`` has equal increments; ``"geometric"``
            has equal ratios from 1e-4 to 1.

    Raises:
        InputError: if `count` is below 1, or the schedule is unknown.
    Source: Wu, Burda, Salakhutdinov & Grosse, On the Quantitative Analysis of Decoder-Based Generative Models,
        arXiv:1611.04273, section 4.2 (sigmoid schedule with width 4).
    """
    count = require_whole(count, "temperatures")
    steps = torch.linspace(0.0, 1.0, count + 1, dtype=torch.float64)
    if schedule == "linear":
        return steps
    if schedule == "sigmoid":
        curve = torch.sigmoid(_WIDTH * (2.0 * steps - 1.0))
        return (curve - curve[0]) / (curve[-1] - curve[0])
    if schedule == "geometric":
        later = torch.logspace(0.0, 1.0, count, base=_LEAST, dtype=torch.float64).flip(0)
        later[-1] = 1.0
        return torch.cat([steps[:1], later])
    raise InputError(f"schedule must be one of {', '.join(SCHEDULES)}; got {schedule!r}.")
