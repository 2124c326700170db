"""Maximise a bound of each datum by Adam, with a decreasing learning rate and averaged parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from pvae.errors import InputError

__all__ = ["maximise"]

Key = TypeVar("Key")

#: The parameters are averaged over this last part of the steps, which removes most of the noise of the draws.
_AVERAGED = 0.3


def maximise(
    objective: Callable[[Mapping[Key, Tensor]], Tensor], start: Mapping[Key, Tensor], steps: int, rate: float
) -> dict[Key, Tensor]:
    """Return parameters near the maximum of a noisy objective.

    Every step of Adam changes a parameter by about the learning rate, for any scale of its gradient, so the data do not
    influence each other.

    Args:
        objective: from parameters to an estimate of the sum over data of the bound, a scalar with a gradient.
        start: the initial parameters, tensors of any shape.
        steps: the number of steps.
        rate: the learning rate of the first steps; it decreases to a hundredth of it along a cosine.

    Returns:
        The mean of the parameters over the last steps, detached.

    Raises:
        InputError: if the objective is not finite.
    """
    parameters = {key: value.detach().clone().requires_grad_() for key, value in start.items()}
    optimiser = torch.optim.Adam(list(parameters.values()), lr=rate, betas=(0.9, 0.99))
    sums = {key: torch.zeros_like(value) for key, value in start.items()}
    first_averaged = math.floor(steps * (1 - _AVERAGED))
    for step in range(steps):
        with torch.enable_grad():
            value = objective(parameters)
            gradients = torch.autograd.grad(-value, list(parameters.values()), allow_unused=True)
        if not bool(torch.isfinite(value)):
            raise InputError(
                f"The search for the best q reached a bound of {float(value)} in step {step + 1}. Lower rate, or use "
                "more particles."
            )
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)
        optimiser.param_groups[0]["lr"] = rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimiser.step()
        if step >= first_averaged:
            for key, parameter in parameters.items():
                sums[key] += parameter.detach() / (steps - first_averaged)
    return sums
