"""The autoencoder: a deterministic code, and the likelihood of x given it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import pyro
from torch import Tensor, nn

from pvae.densities.points import Flat, Point
from pvae.errors import InputError
from pvae.models.base import Amortised, NetworkParts, shaped
from pvae.models.density_traits import density_traits_of
from pvae.networks import noise as noise_of

__all__ = ["Autoencoder"]


class PointParts(NetworkParts, total=False):
    """The arguments of `Amortised` beside the shape of the data and the posterior, which is a point."""

    latent: int
    prior: str | nn.Module


class Autoencoder(Amortised):
    """A deterministic autoencoder: z = encoder(x), and the loss is -log p(x given z), with any likelihood.

    As two programs it is a flat prior p(z) = 1 and a guide that is a point, trained by the objective `dirac`. There is
    no prior to sample from and no evidence to evaluate. With ``prior="standard"`` the same encoder is trained to the
    maximum a posteriori: codes stay near 0, and can be sampled; mind what `pvae.Dirac` says of a decoder that
    scales its input up.

    Args:
        data_shape: shape of one x.
        noise: what corrupts the encoder's input in training, while the loss is of the clean x: a text such as
            ``"gaussian:scale=0.3"`` or ``"masking:share=0.25"``, or a module from x to x; None for nothing.
        parts: the arguments of `pvae.models.base.Amortised` but for the posterior; the prior is ``"flat"`` by
            default.

    Raises:
        InputError: for an argument that cannot be used; and by `sample`, while the prior is flat.

    The sites are ``z`` and ``x``.

    Source: Bourlard & Kamp, Auto-association by multilayer perceptrons and singular value decomposition, Biological
    Cybernetics 59 (1988); the noise: Vincent et al., Extracting and Composing Robust Features with Denoising
    Autoencoders, ICML 2008.
    """

    default_objective = "dirac"

    def __init__(
        self, data_shape: int | Sequence[int], *, noise: str | nn.Module | None = None, **parts: Unpack[PointParts]
    ) -> None:
        flat = parts.get("prior", "flat") == "flat"
        super().__init__(data_shape, posterior="diagonal", **{**parts, "prior": "standard"} if flat else parts)
        if density_traits_of(self.prior).takes_posterior:
            raise InputError(
                "An autoencoder's codes are points, and this prior is made of posteriors, which need a density: use "
                "prior='flat', 'standard' or 'mixture', or pvae.VAE."
            )
        if flat:
            self.prior = Flat(self.latent)
        self.posterior = Point(self.encoder.out_features, self.latent, initialisation=self.initialisation)  # type: ignore[arg-type]
        self.noise = noise_of(noise) if isinstance(noise, str) else noise

    def model(self, x: Tensor) -> Tensor:
        """Generate: x from the likelihood at the code, observed. Returns x."""
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", self.prior_density())
            return pyro.sample("x", self.decode(z), obs=self.observed(x))

    def guide(self, x: Tensor) -> Tensor:
        """Encode: z is the point of x, in training of a corrupted x. Returns z, shape (batch, latent)."""
        x = shaped(x, self._input_shape)
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("z", self.encode(x if self.noise is None else self.noise(x)))
