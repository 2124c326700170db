"""Priors p(z): densities over the latent, which need no context."""

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
        InputError: if there is none.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = require_whole(latent, "latent")
        # Buffers follow the module's device and dtype; constants are no state: checkpoints lack them.
        self.register_buffer("loc", torch.zeros(latent), persistent=False)
        self.register_buffer("scale", torch.ones(latent), persistent=False)

    def forward(self, context: Tensor | None = None) -> dist.TorchDistribution:
        """Return the prior, with event shape (latent,) and no batch shape: a plate expands it."""
        return dist.Normal(self.loc, self.scale).to_event(1)
