"""The variational autoencoder: one latent variable z, inferred by an encoder."""

from __future__ import annotations

import pyro
from torch import Tensor

from pvae.models.base import BaseVAE

__all__ = ["VAE"]


class VAE(BaseVAE):
    """A variational autoencoder: z ~ prior, x ~ likelihood(decoder(z)), q(z given x) = posterior(encoder(x)).

    The arguments are those of `pvae.models.base.BaseVAE`: ``data_shape``, and by name ``latent``, ``hidden``,
    ``network``, ``activation``, ``initialisation``, ``output_bias``, ``prior``, ``posterior`` and ``likelihood``.
    The sites are ``z`` and ``x``.

    Source: Kingma & Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model = pvae.VAE((2, 2), latent=2, hidden=8, prior="mixture", posterior="flow")
        >>> model.sample(3).shape
        torch.Size([3, 2, 2])
        >>> pvae.log_weights(model, torch.ones(5, 2, 2), particles=7).log_w.shape
        torch.Size([7, 5])
    """

    def model(self, x: Tensor) -> Tensor:
        """Generate z from the prior and observe x under the likelihood. Returns x, (batch,) + event shape."""
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior_density())
            return pyro.sample("x", self.decode(z), obs=self.observed(x))

    def guide(self, x: Tensor) -> Tensor:
        """Infer z from the posterior given x. Returns z, shape (batch, latent)."""
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.encode(x))
