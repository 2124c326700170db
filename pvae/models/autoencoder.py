"""The autoencoder: a deterministic code z, and the likelihood of x given z."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import pyro
from torch import Tensor, nn

from pvae.densities.points import Flat, Point
from pvae.errors import InputError
from pvae.models.base import BaseVAE, NetworkParts
from pvae.models.datum_shapes import reshape_data
from pvae.models.density_traits import density_traits_of
from pvae.networks import noise as make_noise
from pvae.networks import normalise_spectrally

__all__ = ["Autoencoder"]


class PointParts(NetworkParts, total=False):
    """The arguments of `BaseVAE` except the shape of the data and the posterior, because the posterior is a point."""

    latent: int
    prior: str | nn.Module


class Autoencoder(BaseVAE):
    """A deterministic autoencoder: z = encoder(x), and the loss is -log p(x given z), with any likelihood.

    Its model has a flat prior p(z) = 1, and its guide is a point (a Delta). The objective `dirac` trains it. The model
    has no prior to sample from and no evidence to evaluate. With ``prior="standard"`` the same encoder is trained to
    the maximum a posteriori: codes stay near 0, and new data can be sampled. `pvae.Dirac` explains when a decoder that
    scales its input up prevents this.

    The sites are ``z`` and ``x``.

    Args:
        data_shape: shape of one x.
        noise: the corruption of the encoder's input in training; the loss uses the clean x. It is a text such as
            ``"gaussian:scale=0.3"`` or ``"masking:share=0.25"``, or a module from x to x. None for no noise.
        spectral: whether the weight of each layer of decoder and likelihood is divided by its largest singular value,
            by `pvae.networks.normalise_spectrally`. This is the RAE-SN of `pvae.RAE`.
        parts: the arguments of `pvae.models.base.BaseVAE` except the posterior; the prior is ``"flat"`` by default.

    Raises:
        InputError: for an argument that cannot be used; from `sample`, if the prior is flat.

    Source: Bourlard & Kamp, Auto-association by multilayer perceptrons and singular value decomposition, Biological
    Cybernetics 59 (1988); the noise: Vincent et al., Extracting and Composing Robust Features with Denoising
    Autoencoders, ICML 2008.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model = pvae.Autoencoder(4, latent=2, hidden=8, likelihood="gaussian")
        >>> model.default_objective
        'dirac'
        >>> model.encode(torch.randn(5, 4)).mean.shape
        torch.Size([5, 2])
    """

    default_objective = "dirac"

    def __init__(
        self,
        data_shape: int | Sequence[int],
        *,
        noise: str | nn.Module | None = None,
        spectral: bool = False,
        **parts: Unpack[PointParts],
    ) -> None:
        has_flat_prior = parts.get("prior", "flat") == "flat"
        if has_flat_prior:
            parts["prior"] = "standard"  # only for the constructor; the flat prior replaces it below
        super().__init__(data_shape, posterior="diagonal", **parts)
        if density_traits_of(self.prior).takes_posterior:
            raise InputError(
                f"An autoencoder's codes are points without a density; {type(self.prior).__name__} is made of "
                "posteriors with a density. Use prior='flat', 'standard' or 'mixture', or use pvae.VAE."
            )
        if has_flat_prior:
            self.prior = Flat(self.latent)
        self.posterior = Point(self.encoder.out_features, self.latent, initialisation=self.initialisation)  # type: ignore[arg-type]
        self.noise = make_noise(noise) if isinstance(noise, str) else noise
        if not isinstance(spectral, bool):
            raise InputError(f"spectral needs true or false; got {spectral!r}.")
        if spectral:
            normalise_spectrally(self.decoder, self.likelihood)

    def model(self, x: Tensor) -> Tensor:
        """Generate z from the prior and observe x under the likelihood. Returns x, (batch,) + event shape."""
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior_density())
            return pyro.sample("x", self.decode(z), obs=self.observed(x))

    def guide(self, x: Tensor) -> Tensor:
        """Infer z as a point, in training from a corrupted x. Returns z, shape (batch, latent)."""
        x = reshape_data(x, self._input_shape)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.encode(x if self.noise is None else self.noise(x)))
