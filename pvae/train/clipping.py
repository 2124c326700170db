"""The limit for the norm of the gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["clipped"]


def clipped(gradients: Sequence[Tensor | None], limit: float) -> tuple[Tensor | None, ...]:
    """Return the gradients, scaled by one factor so that their joint norm is at most a limit.

    Args:
        gradients: the gradients of parameters; None for a parameter without one.
        limit: the largest norm.
    """
    present = [gradient for gradient in gradients if gradient is not None]
    if not present:
        return tuple(gradients)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(present)))
    factor = torch.clamp(limit / (norm + 1e-6), max=1.0)
    scaled = iter(torch._foreach_mul(present, factor))
    return tuple(None if gradient is None else next(scaled) for gradient in gradients)
