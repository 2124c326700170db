"""Tensors in the memory layout of a parameter, which the fused kernels of torch's optimisers require."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["in_layout_of", "set_gradients"]


def in_layout_of(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a tensor with the strides of a parameter: itself if it has them, else a copy.

    The fused kernels of torch's optimisers read parameters, gradients and averages in the order of their memory. With
    unequal strides they would update the wrong elements, without an error.

    Args:
        tensor: a gradient, or a tensor that the optimiser keeps for the parameter.
        parameter: the parameter. Tensors of other shapes are returned as they are.
    """
    if tensor.stride() == parameter.stride() or tensor.shape != parameter.shape or tensor.layout != torch.strided:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def set_gradients(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Set the gradients that an optimiser reads.

    Args:
        parameters: the parameters.
        gradients: the gradient of each, of the same shape, or None.
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        has_layout = gradient is None or gradient.stride() == parameter.stride()
        parameter.grad = gradient if has_layout else in_layout_of(gradient, parameter)  # type: ignore[arg-type]
