"""The functions of `torch.Tensor.register_post_accumulate_grad_hook`, which torch calls in ``backward`` alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

__all__ = ["call_gradient_hooks", "gradient_hooks", "has_gradient_hooks", "hooks_of"]


def hooks_of(tensor: Tensor, name: str) -> list[Callable[..., Any]]:
    """Return the functions that torch calls for a tensor.

    Args:
        tensor: a parameter.
        name: ``_backward_hooks``, of which each takes a gradient; or ``_post_accumulate_grad_hooks``.
    """
    return list((getattr(tensor, name, None) or {}).values())


def gradient_hooks(tensor: Tensor) -> list[Callable[..., Any]]:
    """Return the functions that are to be called when the gradient of a parameter is set.

    Args:
        tensor: a parameter.
    """
    return hooks_of(tensor, "_post_accumulate_grad_hooks")


def has_gradient_hooks(parameters: Sequence[Tensor]) -> bool:
    """Return whether there is such a function for any parameter.

    Args:
        parameters: the parameters.
    """
    for parameter in parameters:  # noqa: SIM110  (a generator would be a further call for each parameter in each step)
        if parameter._post_accumulate_grad_hooks:
            return True
    return False


def call_gradient_hooks(parameters: Sequence[Tensor]) -> None:
    """Call these functions for each parameter that has a gradient, which is per datum, as torch does in ``backward``.

    Args:
        parameters: the parameters, with their gradients set.
    """
    for parameter in parameters:
        for hook in gradient_hooks(parameter) if parameter.grad is not None else ():
            hook(parameter)
