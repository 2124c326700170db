"""The vector-quantised VAE: the latent variable is a code at each position, and the guide takes the nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.densities.quantiser import Quantiser
from pvae.errors import InputError
from pvae.models.base import _FLAT, Amortised, NetworkParts, shaped
from pvae.names import unknown
from pvae.networks import initialise

__all__ = ["VQVAE"]

_POSITIONS = 8


class _CodePrior(nn.Module):
    """p(k): Categorical at each position, uniform or learned, independent of the others."""

    logits: Tensor

    def __init__(self, positions: int, codes: int, learned: bool) -> None:
        super().__init__()
        start = torch.zeros(positions, codes)
        if learned:
            self.logits = nn.Parameter(start)
        else:
            self.register_buffer("logits", start, persistent=False)

    def forward(self, context: None = None) -> dist.TorchDistribution:
        return dist.Categorical(logits=self.logits).to_event(1)


class _Codes(nn.Module):
    """q(k given x) from the encoder's features: a vector for each position, and the nearest code to it."""

    def __init__(self, features: int, maps: tuple[int, int] | None, positions: int, quantiser: Quantiser) -> None:
        super().__init__()
        self.maps, self.positions, self.quantiser = maps, positions, quantiser
        latent = quantiser.latent
        self.vectors_of = nn.Linear(features, positions * latent) if maps is None else nn.Linear(maps[0], latent)

    def vectors(self, h: Tensor) -> Tensor:
        """The vectors of features (..., features), shape (..., positions, latent)."""
        if self.maps is None:
            return self.vectors_of(h).unflatten(-1, (self.positions, -1))
        return self.vectors_of(h.unflatten(-1, self.maps).mT)

    def forward(self, h: Tensor) -> Any:
        return self.quantiser(self.vectors(h))


class _Maps(nn.Module):
    """Feature maps from the codes at their positions, each from its own code alone."""

    def __init__(self, positions: int, latent: int, filters: int) -> None:
        super().__init__()
        self.positions, self.layer = positions, nn.Linear(latent, filters)

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z.unflatten(-1, (self.positions, -1))).mT.flatten(-2)


class VQVAE(Amortised):
    """k_p ~ Categorical at each position p, x ~ likelihood(decoder(codes)); the guide takes the nearest code.

    The sites are ``k``, shape (batch, positions), and ``x``. The guide has all probability on one k, so the log weight
    is log p(x given k) + log p(k), an honest lower bound of log p(x): with the uniform prior, log p(x given k) -
    positions * log(codes).

    Args:
        data_shape: as for `pvae.models.base.Amortised`.
        codes: number of codes.
        latent: size of a code.
        positions: how many codes stand for one x, 8 by default; networks of convolutions have one at each place of
            their smallest feature maps.
        prior: ``"uniform"``, or ``"learned"``: a Categorical for each position, trained with theta.
        codebook: ``"gradient"`` or ``"average"``, see `pvae.Quantiser`.
        decay: of the averages.
        restart: with averages, the usage below which a code is put on one of the batch's vectors; None for never.
        parts: ``hidden``, ``network``, ``activation``, ``initialisation``, ``output_bias`` and ``likelihood`` of
            `Amortised`.

    Raises:
        InputError: for an argument that cannot be used, in one line.
    Source: van den Oord, Vinyals & Kavukcuoglu, Neural Discrete Representation Learning, arXiv:1711.00937.
    """

    default_objective = "vq"
    prior: Any
    encoder: Any
    decoder: Any
    posterior: Any
    likelihood: Any

    def __init__(
        self,
        data_shape: int | Sequence[int],
        *,
        codes: int = 64,
        latent: int = 16,
        positions: int | None = None,
        prior: str = "uniform",
        codebook: str = "gradient",
        decay: float = 0.99,
        restart: float | None = None,
        **parts: Unpack[NetworkParts],
    ) -> None:
        if prior not in ("uniform", "learned"):
            raise unknown("prior", str(prior), ("uniform", "learned"))
        flat = parts.get("network", "mlp") in _FLAT
        count = _positions(positions, flat)
        quantiser = Quantiser(codes, latent, codebook=codebook, decay=decay, restart=restart)
        super().__init__(data_shape, latent=count * latent, prior=nn.Identity(), posterior=nn.Identity(), **parts)
        maps = None if flat else self._over_maps(latent)
        self.positions = count if maps is None else maps[1]
        self.prior = _CodePrior(self.positions, codes, prior == "learned")
        self.posterior = _Codes(self.encoder.out_features, maps, self.positions, quantiser)
        initialise(self.posterior, self.initialisation)

    def _over_maps(self, latent: int) -> tuple[int, int]:
        """Let the decoder make its smallest maps place by place; return their number, and that of their places."""
        filters, height, width = self.decoder.layers[1].unflattened_size
        self.decoder.layers[0] = _Maps(height * width, latent, filters)
        self.decoder.in_features = height * width * latent
        initialise(self.decoder.layers[0], self.initialisation)
        return filters, height * width

    @property
    def quantiser(self) -> Quantiser:
        """The codebook."""
        found: Quantiser = self.posterior.quantiser
        return found

    def decode(self, z: Tensor, *context: Tensor) -> dist.TorchDistribution:
        """Return p(x given k) for indices of codes, shape (..., positions)."""
        return self.likelihood(self.decoder(self.quantiser.embed(z).flatten(-2)))

    def model(self, x: Tensor) -> Tensor:
        """Generate: a code at each position, x from the likelihood, observed. Returns x."""
        with pyro.plate("data", x.shape[0]):
            k = pyro.sample("k", self.prior_density())
            return pyro.sample("x", self.decode(k), obs=self.observed(x))

    def guide(self, x: Tensor) -> Tensor:
        """Infer: the nearest codes. Returns k, shape (batch, positions)."""
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("k", self.encode(x))

    @torch.no_grad()
    def codes(self, x: Tensor) -> Tensor:
        """Return the indices of the nearest codes, shape (batch, positions)."""
        return self.quantiser.nearest(self._vectors(x))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of x given its codes, shape (batch,) + data_shape."""
        return self.as_data(self.decode(self.codes(x)), mean=True)

    def _vectors(self, x: Tensor) -> Tensor:
        return self.posterior.vectors(self.encoder(shaped(x, self._input_shape)))

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model: the codebook, where it is one, among them."""
        return [*super().theta(), *self.quantiser.parameters()]

    @torch.no_grad()
    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Start the output bias as `Amortised` does, and put the codes on vectors of the fresh encoder, once."""
        if self.initialised:
            return
        super().initialise_from(batch)
        x = batch["x"].to(next(self.encoder.parameters()))
        few = torch.randperm(len(x), device=x.device)[: self.quantiser.codes]
        self.quantiser.initialise_from(self._vectors(x[few]))


def _positions(positions: int | None, flat: bool) -> int:
    """How many vectors a flat encoder gives; for maps, whose places are counted later, 1."""
    if positions is None:
        return _POSITIONS if flat else 1
    positions = require_whole(positions, "positions")
    if not flat:
        raise InputError("positions is for flat networks: convolutions have a code at each place of their maps.")
    return positions
