"""Tensors in the memory layout of a parameter, which the fused kernels of torch's optimisers require."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from pvae.errors import InputError

__all__ = ["in_layout_of", "keep_state_in_layout", "set_gradients", "strides_of"]


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


def strides_of(parameters: Iterable[Tensor]) -> list[tuple[int, ...]]:
    """Return the strides of each parameter; another list shows that a parameter has got memory of another layout."""
    return list(map(Tensor.stride, parameters))


def keep_state_in_layout(optimiser: Optimizer, named: Mapping[str, Tensor]) -> None:
    """Give the tensors that an optimiser keeps for its parameters the memory layout of the parameters.

    ``parameter.data = ...`` may give a parameter another layout in the middle of a training.

    Args:
        optimiser: the optimiser; its state is changed in place.
        named: the parameters by name.

    Raises:
        InputError: if a parameter has gaps in its memory, or parts that overlap, and the optimiser is fused: its
            kernel reads as many numbers as the parameter has, one after the other.
    """
    is_fused = any(group.get("fused") for group in optimiser.param_groups)
    for name, parameter in named.items():
        if is_fused and parameter.layout == torch.strided and not _is_dense(parameter):
            raise InputError(
                f"The fused kernel of {type(optimiser).__name__} needs parameters without gaps in their memory; {name} "
                f"of shape {tuple(parameter.shape)} has the strides {parameter.stride()}. Set parameter.data = "
                "parameter.data.contiguous(), or use the optimiser with fused=False."
            )
        state = optimiser.state.get(parameter, {})
        for key, value in state.items():
            if isinstance(value, Tensor):
                state[key] = in_layout_of(value, parameter)


def _is_dense(parameter: Tensor) -> bool:
    """Return whether the numbers of a parameter fill its memory, in any order of the dimensions."""
    return torch.empty_like(parameter, device="meta").stride() == parameter.stride()
