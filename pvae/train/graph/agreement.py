"""Agreement of two ways to compute the same numbers, such as a graph and the eager step on the same draws."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["coarsest_of", "first_difference", "has_equal_content", "is_close"]

#: The largest rounding error of sums in another order, in units of the last place (ulp).
_ULPS = 64
#: A graph on CUDA may add in any order.
_ULPS_ON_CUDA = 16 * _ULPS


def first_difference(
    names: Sequence[str],
    outputs: Sequence[Tensor | None],
    expected: Sequence[Tensor | None],
    coarsest: torch.dtype | None = None,
    rounding: Sequence[float] | None = None,
) -> str | None:
    """Return the name of the first output that differs from its expected value by more than rounding.

    None if all agree.

    Args:
        names: a name for each output.
        outputs: the outputs of a graph; the first is the loss.
        expected: the outputs of the eager step on the same draws.
        coarsest: as for `is_close`.
        rounding: an absolute difference of each output that counts as rounding too.
    """
    least = _rounding_of(expected[0])
    allowed = [least] * len(expected) if rounding is None else [max(least, error) for error in rounding]
    for name, output, eager, error in zip(names, outputs, expected, allowed, strict=True):
        if not is_close(output, eager, error, coarsest):
            return name
    return None


def _rounding_of(loss: Tensor | None) -> float:
    """Return the rounding error of a sum of terms as large as the loss; near an optimum a gradient is not larger."""
    if loss is None or not loss.is_floating_point():
        return 0.0
    return float(loss.abs().nan_to_num(0.0, posinf=0.0)) * torch.finfo(loss.dtype).eps


def is_close(
    output: Tensor | None, expected: Tensor | None, least: float = 0.0, coarsest: torch.dtype | None = None
) -> bool:
    """Return whether two tensors agree within the rounding of sums in another order.

    Most graphs agree in every bit. `pyro.infer.TraceEnum_ELBO` always masks impossible values in a graph, and eagerly
    only if there are any; CUDA kernels add in any order.

    Args:
        output: a tensor, or None for a gradient that does not exist.
        expected: the tensor to compare with.
        least: an absolute difference that always counts as rounding.
        coarsest: the dtype with the fewest digits in the computation; None for the dtype of the tensor.
    """
    if output is None or expected is None:
        return output is expected
    if output.shape != expected.shape or output.dtype != expected.dtype:
        return False
    if not output.is_floating_point() or not output.numel():
        return torch.equal(output, expected)
    ulps = _ULPS_ON_CUDA if output.is_cuda else _ULPS
    eps = torch.finfo(output.dtype).eps
    relative = ulps * (eps if coarsest is None else max(eps, torch.finfo(coarsest).eps))
    largest = expected.abs().nan_to_num(0.0, posinf=0.0).amax()
    absolute = max(float(relative * largest), least)
    return bool(torch.isclose(output, expected, rtol=relative, atol=absolute, equal_nan=True).all())


def has_equal_content(arguments: Sequence[Tensor], former: Sequence[Tensor]) -> bool:
    """Return whether two lists of tensors have the same values.

    Args:
        arguments: the tensors.
        former: as many tensors of the same shapes.
    """
    return all(first is second or torch.equal(first, second) for first, second in zip(arguments, former, strict=True))


def coarsest_of(tensors: Iterable[Tensor]) -> torch.dtype | None:
    """Return the floating-point dtype with the fewest digits among tensors; None if there is none.

    Args:
        tensors: the tensors of a computation.
    """
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=None)
