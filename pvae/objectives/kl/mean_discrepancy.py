"""The maximum mean discrepancy (MMD) between two samples, with its kernels.

Both estimates are unbiased: they leave out the pairs of a draw with itself.

Source: Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), lemma 6.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["KERNELS", "kernel_values", "mmd", "mmd_of_labels"]

#: kernels by name
KERNELS = ("gaussian", "imq")


def kernel_values(squared_distance: Tensor, units: int, kernel: str, scale: float) -> Tensor:
    """Return the kernel at squared distances, in their shape.

    Args:
        squared_distance: d^2, of any shape.
        units: the number of units of a draw.
        kernel: ``"gaussian"``, exp(-d^2 / (2 s^2 units)); or ``"imq"``, c / (c + d^2) with c = 2 s^2 units.
        scale: s, the width of the kernel in units of one latent's scale.
    """
    width = 2.0 * scale**2 * units
    return (-squared_distance / width).exp() if kernel == "gaussian" else width / (width + squared_distance)


def _kernel_of_pairs(first: Tensor, second: Tensor, kernel: str, scale: float) -> Tensor:
    """Return the kernel of all pairs, shape (..., first, second), for draws of shape (..., draws, units)."""
    squared_distance = (first.unsqueeze(-2) - second.unsqueeze(-3)).square().sum(-1)
    return kernel_values(squared_distance, first.shape[-1], kernel, scale)


def mmd(ours: Tensor, theirs: Tensor, kernel: str = "gaussian", scale: float = 1.0) -> Tensor:
    """Return the unbiased estimate of the squared maximum mean discrepancy between two samples, shape (...).

    Args:
        ours: draws, shape (..., draws, units), at least 2.
        theirs: as many draws of the other distribution.
        kernel: ``"gaussian"``, exp(-d^2 / (2 s^2 units)); or ``"imq"``, c / (c + d^2) with c = 2 s^2 units.
        scale: s, the width of the kernel in units of one latent's scale.

    Source: Gretton et al., A Kernel Two-Sample Test, JMLR 13 (2012), lemma 6: pairs of a draw with itself are left out.
    """
    count = ours.shape[-2]
    is_pair = 1.0 - torch.eye(count, dtype=ours.dtype, device=ours.device)
    within = sum((_kernel_of_pairs(draws, draws, kernel, scale) * is_pair).sum((-1, -2)) for draws in (ours, theirs))
    return within / (count * (count - 1)) - 2.0 * _kernel_of_pairs(ours, theirs, kernel, scale).mean((-1, -2))


def mmd_of_labels(kernel: Tensor, labels: Tensor) -> Tensor:
    """Return the unbiased estimate of the squared maximum mean discrepancy for several ways to split a joint sample.

    Args:
        kernel: the kernel of all pairs of draws of the joint sample, shape (draws, draws), with zeros on the diagonal.
        labels: 1 for a draw of the first sample, else 0, shape (draws, splits); each split has samples of the same
            sizes.

    Returns:
        Shape (splits,).
    """
    first_count = float(labels[:, 0].sum())
    second_count = len(kernel) - first_count
    from_first = (labels * kernel.sum(1, keepdim=True)).sum(0)
    within_first = (labels * (kernel @ labels)).sum(0)
    across = from_first - within_first
    within_second = kernel.sum() - 2.0 * from_first + within_first
    return (
        within_first / (first_count * (first_count - 1))
        + within_second / (second_count * (second_count - 1))
        - 2.0 * across / (first_count * second_count)
    )
