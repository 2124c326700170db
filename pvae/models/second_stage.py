"""The second stage of a two-stage VAE: a VAE of codes, as the prior of the model that has these codes."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.models.vae import VAE

__all__ = ["SecondStage"]


class SecondStage(nn.Module):
    """A VAE of codes z: u ~ N(0, I), z given u ~ Normal(loc + scale mean(u), scale noise), q(u given z).

    loc and scale are set from the codes, so the networks get codes with mean 0 and standard deviation 1.

    Args:
        size: number of latent dimensions of z.
        latent: number of latent dimensions of u; by default as many as z has, as in the source.
        hidden: sizes of the hidden layers of both networks.

    Raises:
        InputError: for an argument that `pvae.VAE` refuses.
    Source: Dai & Wipf, Diagnosing and Enhancing VAE Models, arXiv:1903.05789, section 4.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, size: int, *, latent: int | None = None, hidden: int | Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.vae = VAE(
            size,
            latent=size if latent is None else latent,
            hidden=hidden,
            activation="relu",
            likelihood="gaussian",
            output_bias=None,
        )
        self.register_buffer("loc", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    @torch.no_grad()
    def set_standardisation(self, codes: Tensor) -> None:
        """Set loc and scale to the mean and the standard deviation of codes, shape (codes, size)."""
        self.loc.copy_(codes.mean(0))
        self.scale.copy_(codes.std(0))

    def standardised(self, z: Tensor) -> Tensor:
        """Return codes z, shape (..., size), with mean 0 and standard deviation 1 over the codes of the fit."""
        return (z - self.loc) / self.scale

    def latent_density(self) -> dist.TorchDistribution:
        """Return p(u), with batch shape () and event shape (latent,)."""
        return self.vae.prior_density()

    def code_density(self, u: Tensor) -> dist.TorchDistribution:
        """Return p(z given u), batch shape (...), event shape (size,), for u of shape (..., latent)."""
        density = self.vae.decode(u).base_dist
        return dist.Normal(self.loc + self.scale * density.loc, self.scale * density.scale).to_event(1)

    def infer(self, z: Tensor) -> dist.TorchDistribution:
        """Return q(u given z), batch shape (...), event shape (latent,), for z of shape (..., size)."""
        return self.vae.posterior(self.vae.encoder(self.standardised(z)))
