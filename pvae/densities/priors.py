"""The standard normal prior p(z)."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.checks import require_whole

__all__ = ["StandardNormal"]


class StandardNormal(nn.Module):
    """The prior p(z) = Normal(0, 1) in each of `latent` dimensions.

    Args:
        latent: number of latent dimensions.

    Raises:
        InputError: if `latent` is not a whole number of at least 1.

    Example:
        >>> import pvae
        >>> p = pvae.StandardNormal(2)()
        >>> p.batch_shape, p.event_shape
        (torch.Size([]), torch.Size([2]))
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = require_whole(latent, "latent")
        # Buffers follow the device and dtype of the module; these constants are not saved in checkpoints.
        self.register_buffer("loc", torch.zeros(latent), persistent=False)
        self.register_buffer("scale", torch.ones(latent), persistent=False)

    def forward(self, context: Tensor | None = None) -> dist.TorchDistribution:
        """Return p(z) with batch shape () and event shape (latent,); `context` is not used."""
        return dist.Normal(self.loc, self.scale).to_event(1)
