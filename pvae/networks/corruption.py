"""Noise that is added to the input of a network in training mode, for denoising autoencoders."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from pvae.checks import require_number, require_positive
from pvae.names import parse_known

__all__ = ["NOISES", "GaussianNoise", "MaskingNoise", "noise"]


class GaussianNoise(nn.Module):
    """Adds Gaussian noise to each entry in training mode: x + scale * e with e ~ N(0, 1).

    In evaluation mode it returns x itself.

    Args:
        scale: standard deviation of the noise, in the unit of x.

    Raises:
        InputError: if `scale` is not a positive number.

    Shapes: any shape to the same shape.
    """

    def __init__(self, scale: float = 0.3) -> None:
        super().__init__()
        self.scale = float(require_positive(scale, "scale"))

    def forward(self, x: Tensor) -> Tensor:
        """Return x with noise in training mode, and x itself in evaluation mode, in the shape of x."""
        return x + self.scale * torch.randn_like(x) if self.training else x


class MaskingNoise(nn.Module):
    """Sets random entries of x to 0 in training mode. In evaluation mode it returns x itself.

    Args:
        share: probability that an entry is set to 0.

    Raises:
        InputError: if `share` is not strictly between 0 and 1.

    Shapes: any shape to the same shape.
    """

    def __init__(self, share: float = 0.25) -> None:
        super().__init__()
        self.share = float(require_number(share, "share", above=0, below=1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x with some entries set to 0 in training mode, and x itself in evaluation mode, in the shape of x."""
        return x * (torch.rand_like(x) >= self.share) if self.training else x


NOISES: dict[str, type[nn.Module]] = {"gaussian": GaussianNoise, "masking": MaskingNoise}


def noise(text: str) -> nn.Module:
    """Return the noise that a text names, such as ``"gaussian:scale=0.3"`` or ``"masking:share=0.25"``.

    Args:
        text: a name of `NOISES`, with settings after colons.

    Raises:
        InputError: if the name or a setting is not known (the message gives the nearest), or a value is out of range.
    """
    name, settings = parse_known(text, "noise", NOISES, lambda kind: inspect.signature(kind).parameters)
    return NOISES[name](**settings)
