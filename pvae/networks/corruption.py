"""Noise on a network's input, in training alone: what a denoising encoder has to see through."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from pvae.checks import require_number, require_positive
from pvae.names import parse_known

__all__ = ["NOISES", "GaussianNoise", "MaskingNoise", "noise"]


class GaussianNoise(nn.Module):
    """x + scale * e with e ~ N(0, 1) in each entry, in training mode; x itself in evaluation mode.

    Args:
        scale: standard deviation of the noise, in the unit of x.

    Raises:
        InputError: if it is not a positive number.
    """

    def __init__(self, scale: float = 0.3) -> None:
        super().__init__()
        self.scale = float(require_positive(scale, "scale"))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * torch.randn_like(x) if self.training else x


class MaskingNoise(nn.Module):
    """x with a random share of its entries set to 0, in training mode; x itself in evaluation mode.

    Args:
        share: probability of each entry to be set to 0.

    Raises:
        InputError: if it is not strictly between 0 and 1.
    """

    def __init__(self, share: float = 0.25) -> None:
        super().__init__()
        self.share = float(require_number(share, "share", above=0, below=1))

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x) >= self.share) if self.training else x


NOISES: dict[str, type[nn.Module]] = {"gaussian": GaussianNoise, "masking": MaskingNoise}


def noise(text: str) -> nn.Module:
    """Return the noise that a text names, such as ``"gaussian:scale=0.3"`` or ``"masking:share=0.25"``.

    Raises:
        InputError: if the name or a setting is not known (the nearest is named), or a setting cannot be used.
    """
    name, settings = parse_known(text, "noise", NOISES, lambda kind: inspect.signature(kind).parameters)
    return NOISES[name](**settings)
