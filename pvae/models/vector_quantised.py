"""The vector-quantised VAE: the latent variable is a code at each position, and the guide chooses the nearest code."""

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
from pvae.models.base import BaseVAE, NetworkParts, network_kind
from pvae.models.datum_shapes import reshape_data
from pvae.models.direct_calls import takes_data
from pvae.names import unknown
from pvae.networks import initialise

__all__ = ["VQVAE"]

PRIORS = ("uniform", "learned")
_DEFAULT_POSITIONS = 8


class _CodePrior(nn.Module):
    """p(k): a Categorical at each position, uniform or learned; positions are independent."""

    logits: Tensor

    def __init__(self, positions: int, codes: int, learned: bool) -> None:
        super().__init__()
        uniform = torch.zeros(positions, codes)
        if learned:
            self.logits = nn.Parameter(uniform)
        else:
            self.register_buffer("logits", uniform, persistent=False)

    def forward(self, context: None = None) -> dist.TorchDistribution:
        """Return p(k), batch shape (), event shape (positions,)."""
        return dist.Categorical(logits=self.logits).to_event(1)


class _CodePosterior(nn.Module):
    """q(k given x) from the encoder's features: a vector at each position, and the code nearest to it.

    Args:
        features: number of features of the encoder.
        maps: number of feature maps and of positions in each, if the features are feature maps; else None.
        positions: number of positions.
        quantiser: the codebook.
    """

    def __init__(self, features: int, maps: tuple[int, int] | None, positions: int, quantiser: Quantiser) -> None:
        super().__init__()
        self.maps, self.positions, self.quantiser = maps, positions, quantiser
        latent = quantiser.latent
        self.vectors_of = nn.Linear(features, positions * latent) if maps is None else nn.Linear(maps[0], latent)

    def vectors(self, h: Tensor) -> Tensor:
        """Return the vectors before quantisation, shape (..., positions, latent), of features (..., features)."""
        if self.maps is None:
            return self.vectors_of(h).unflatten(-1, (self.positions, -1))
        return self.vectors_of(h.unflatten(-1, self.maps).mT)

    def forward(self, h: Tensor) -> Any:
        """Return q(k given x), batch shape (...), event shape (positions,), of features (..., features)."""
        return self.quantiser(self.vectors(h))


class _MapsFromCodes(nn.Module):
    """The smallest feature maps of a decoder: the values at each position are linear in the code of that position.

    Shapes: (..., positions * latent) to (..., filters * positions).
    """

    def __init__(self, positions: int, latent: int, filters: int) -> None:
        super().__init__()
        self.positions, self.layer = positions, nn.Linear(latent, filters)

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z.unflatten(-1, (self.positions, -1))).mT.flatten(-2)


class VQVAE(BaseVAE):
    """k_p ~ Categorical at each position p, x ~ likelihood(decoder(codes)); the guide chooses the nearest code.

    The sites are ``k``, shape (batch, positions), and ``x``. The guide gives probability 1 to one k, so the log weight
    is log p(x given k) + log p(k), a lower bound of log p(x). With the uniform prior it is log p(x given k) -
    positions * log(codes).

    Args:
        data_shape: as for `pvae.models.base.BaseVAE`.
        codes: number of codes.
        latent: size of a code.
        positions: number of codes for one x, 8 by default. Convolutional networks have one code at each position of
            their smallest feature maps.
        prior: ``"uniform"``, or ``"learned"``: a Categorical for each position, trained with theta.
        codebook: ``"gradient"`` or ``"average"``, see `pvae.Quantiser`.
        decay: decay of the moving averages.
        restart: with averages, a code with less usage than this is set to one of the batch's vectors; None never does
            this.
        parts: ``hidden``, ``network``, ``activation``, ``initialisation``, ``output_bias`` and ``likelihood`` of
            `BaseVAE`.

    Raises:
        InputError: for an argument that cannot be used, in one line.
    Source: van den Oord, Vinyals & Kavukcuoglu, Neural Discrete Representation Learning, arXiv:1711.00937.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model = pvae.VQVAE(4, codes=8, latent=2, positions=3, hidden=8)
        >>> run = pvae.fit(model, torch.eye(4).repeat(10, 1), epochs=1, step="eager", progress=False)
        >>> run.model.sample(5).shape
        torch.Size([5, 4])
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
        if prior not in PRIORS:
            raise unknown("prior", str(prior), PRIORS)
        is_flat = network_kind(parts.get("network", "mlp")).is_flat
        count = _check_positions(positions, is_flat)
        quantiser = Quantiser(codes, latent, codebook=codebook, decay=decay, restart=restart)
        # Prior and posterior need the number of positions, which is known after the networks are built.
        super().__init__(data_shape, latent=count * latent, prior=nn.Identity(), posterior=nn.Identity(), **parts)
        maps = None if is_flat else self._decode_positions(latent)
        self.positions = count if maps is None else maps[1]
        self.prior = _CodePrior(self.positions, codes, prior == "learned")
        self.posterior = _CodePosterior(self.encoder.out_features, maps, self.positions, quantiser)
        initialise(self.posterior, self.initialisation)

    def _decode_positions(self, latent: int) -> tuple[int, int]:
        """Let the decoder start from a code at each position of its smallest feature maps.

        Returns:
            The number of these maps, and the number of positions in each.
        """
        filters, height, width = self.decoder.layers[1].unflattened_size
        self.decoder.layers[0] = _MapsFromCodes(height * width, latent, filters)
        self.decoder.in_features = height * width * latent
        initialise(self.decoder.layers[0], self.initialisation)
        return filters, height * width

    @property
    def quantiser(self) -> Quantiser:
        """The codebook."""
        quantiser: Quantiser = self.posterior.quantiser
        return quantiser

    def decode(self, z: Tensor, *context: Tensor) -> dist.TorchDistribution:
        """Return p(x given k), batch shape (...), for indices z of codes, shape (..., positions)."""
        return self.likelihood(self.decoder(self.quantiser.embed(z).flatten(-2)))

    def model(self, x: Tensor) -> Tensor:
        """Generate a code at each position and observe x under the likelihood. Returns x, (batch,) + event shape."""
        with pyro.plate("data", x.shape[0]):
            k = pyro.sample("k", self.prior_density())
            return pyro.sample("x", self.decode(k), obs=self.observed(x))

    def guide(self, x: Tensor) -> Tensor:
        """Infer the nearest codes. Returns k, shape (batch, positions)."""
        with pyro.plate("data", x.shape[0]):
            return pyro.sample("k", self.encode(x))

    @torch.no_grad()
    @takes_data
    def codes(self, x: Tensor) -> Tensor:
        """Return the indices of the nearest codes, shape (batch, positions)."""
        return self.quantiser.nearest(self._vectors(x))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of x given its codes, shape (batch,) + data_shape."""
        return self.as_data(self.decode(self.codes(x)), mean=True)

    def _vectors(self, x: Tensor) -> Tensor:
        """Return the encoder's vectors before quantisation, shape (batch, positions, latent)."""
        return self.posterior.vectors(self.encoder(reshape_data(x, self._input_shape)))

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model, with the codebook if it is trained by gradients."""
        return [*super().theta(), *self.quantiser.parameters()]

    @torch.no_grad()
    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Initialise as `BaseVAE` does, and set the codes to vectors of the untrained encoder; only once.

        Args:
            batch: the training data.
        """
        if self.initialised:
            return
        super().initialise_from(batch)
        x = batch["x"].to(next(self.encoder.parameters()))
        rows = torch.randperm(len(x), device=x.device)[: self.quantiser.codes]
        self.quantiser.initialise_from(self._vectors(x[rows]))


def _check_positions(positions: int | None, is_flat: bool) -> int:
    """Return the number of vectors of a flat encoder; 1 for convolutions, because their positions are counted later."""
    if positions is None:
        return _DEFAULT_POSITIONS if is_flat else 1
    count = require_whole(positions, "positions")
    if not is_flat:
        raise InputError(
            "positions is for flat networks; convolutions have a code at each position of their maps; got "
            f"positions={positions!r}. Leave it out."
        )
    return count
