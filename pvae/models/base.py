"""What the models of the VAE family share: parts by name, their groups, and their start from the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.checks import require_sizes, require_whole
from pvae.densities import part
from pvae.errors import InputError
from pvae.models.density_traits import density_traits_of
from pvae.names import unknown
from pvae.networks import MLP, ConvDecoder, ConvEncoder, GatedMLP
from pvae.programs.base import LatentModel

__all__ = ["NETWORKS", "Amortised", "NetworkParts", "Parts", "shaped"]

Networks = tuple[nn.Module, nn.Module]


def _mlp(data_shape: tuple[int, ...], latent: int, hidden: tuple[int, ...], **style: Any) -> Networks:
    flat = math.prod(data_shape)
    return MLP(flat, hidden=hidden, **style), MLP(latent, hidden=hidden[::-1], **style)


def _gated(data_shape: tuple[int, ...], latent: int, hidden: tuple[int, ...], **style: Any) -> Networks:
    flat = math.prod(data_shape)
    return GatedMLP(flat, hidden=hidden, **style), GatedMLP(latent, hidden=hidden[::-1], **style)


def _conv(data_shape: tuple[int, ...], latent: int, hidden: tuple[int, ...], **style: Any) -> Networks:
    encoder = ConvEncoder(data_shape, hidden=hidden, **style)
    return encoder, ConvDecoder(latent, data_shape, hidden=hidden[::-1], **style)


def _resnet(data_shape: tuple[int, ...], latent: int, hidden: tuple[int, ...], **style: Any) -> Networks:
    return _conv(data_shape, latent, hidden, blocks=1, **style)


# name: (encoder and decoder, default hidden sizes, default activation)
NETWORKS: dict[str, tuple[Callable[..., Networks], tuple[int, ...], str | None]] = {
    "mlp": (_mlp, (200, 200), "tanh"),
    "gated": (_gated, (200, 200), None),
    "conv": (_conv, (32, 64), "relu"),
    "resnet": (_resnet, (32, 64), "relu"),
}

# networks whose data are one flat vector
_FLAT = frozenset({"mlp", "gated"})


def _checked_shape(data_shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = require_sizes(data_shape, "data_shape", advice="It is the shape of one x, such as (28, 28).")
    if not sizes:
        raise InputError("data_shape needs the size of one x; got (), as of one number per datum: give x a column.")
    return sizes


def _hidden_sizes(given: int | Sequence[int]) -> tuple[int, ...]:
    """The sizes of hidden layers; none for 0, which a command line can say, and for an empty tuple."""
    return require_sizes(given, "hidden", zero=True, advice="For example hidden=200,200; 0 means no hidden layer.")


def _style(
    network: str, activation: str | None, initialisation: str
) -> tuple[Callable[..., Networks], tuple[int, ...], dict[str, Any]]:
    if network not in NETWORKS:
        raise unknown("network", str(network), NETWORKS)
    make, sizes, default = NETWORKS[network]
    if default is None:
        if activation is not None:
            raise InputError(f"A {network} network takes no activation; got {activation!r}. Leave it out.")
        return make, sizes, {"initialisation": initialisation}
    return make, sizes, {"activation": activation or default, "initialisation": initialisation}


class NetworkParts(TypedDict, total=False):
    """The arguments of `Amortised` that say nothing of z, for classes with a z of their own that pass them on."""

    hidden: int | Sequence[int] | None
    network: str
    activation: str | None
    initialisation: str
    output_bias: str | float | Tensor | None
    likelihood: str | nn.Module


class Parts(NetworkParts, total=False):
    """The arguments of `Amortised` beside the shape of the data, for classes that pass them on."""

    latent: int
    prior: str | nn.Module
    posterior: str | nn.Module


class Amortised(LatentModel):
    """A prior, an encoder with its posterior, and a decoder with its likelihood; subclasses write the two programs.

    Args:
        data_shape: shape of one x, such as (784,) or (28, 28); convolutions need (height, width) or
            (channels, height, width).
        latent: number of latent dimensions.
        hidden: sizes of the encoder's hidden layers (filters, for convolutions), which the decoder takes in
            reverse; by default (200, 200), and (32, 64) for convolutions. 0 or () means none: encoder and
            decoder are then linear, and convolutions refuse it.
        network: a name of `NETWORKS`.
        activation: a name of `pvae.networks.ACTIVATIONS`, by default ``"tanh"``, and ``"relu"`` for
            convolutions; gated networks have none.
        initialisation: a name of `pvae.networks.INITIALISATIONS`, for networks and heads.
        output_bias: ``"data"`` lets `initialise_from` set the likelihood's output bias from the data,
            where the likelihood has such a method; a number or a tensor sets it now; None leaves it.
        prior: a name of `pvae.densities.PRIORS`, with settings after colons, or a density as a module.
        posterior: a name of `pvae.densities.POSTERIORS`, or a density as a module, in the context of the encoder's
            features.
        likelihood: a name of `pvae.densities.LIKELIHOODS` (``"gaussian:scale=0.1"``), or a density as a module, in
            the context of the decoder's features; its events have the shape of its attribute ``data_shape`` where it
            has one, else that of the data.

    Raises:
        InputError: for an argument that cannot be used, in one line; for an unknown name with the nearest.

    x may arrive flat, (batch, features), or shaped, (batch,) + data_shape.
    """

    initialised: Tensor

    def __init__(
        self,
        data_shape: int | Sequence[int],
        *,
        latent: int = 16,
        hidden: int | Sequence[int] | None = None,
        network: str = "mlp",
        activation: str | None = None,
        initialisation: str = "glorot",
        output_bias: str | float | Tensor | None = "data",
        prior: str | nn.Module = "standard",
        posterior: str | nn.Module = "diagonal",
        likelihood: str | nn.Module = "bernoulli",
    ) -> None:
        super().__init__()
        self.data_shape = _checked_shape(data_shape)
        latent = require_whole(latent, "latent")
        make, sizes, style = _style(network, activation, initialisation)
        sizes = sizes if hidden is None else _hidden_sizes(hidden)
        self.latent, self.initialisation = latent, initialisation
        # Only convolutions see the picture; elsewhere one flat event spares the reshapes.
        self._input_shape = (math.prod(self.data_shape),) if network in _FLAT else self.data_shape
        self.prior = part("prior", prior, latent, data_shape=self._input_shape, **style)
        self.encoder, self.decoder = make(self.data_shape, latent, sizes, **style)
        self.posterior = part("posterior", posterior, self.encoder.out_features, latent, **style)
        self.likelihood = part("likelihood", likelihood, self.decoder.out_features, self._input_shape, **style)
        event_shape = density_traits_of(self.likelihood).data_shape
        self._event_shape = self.data_shape if event_shape is None else tuple(event_shape)
        self._bias_from_data = isinstance(output_bias, str)
        self._set_output_bias(output_bias)
        # Persistent: a resumed or a second training must not reset a bias that was trained.
        self.register_buffer("initialised", torch.tensor(False))

    def _set_output_bias(self, output_bias: str | float | Tensor | None) -> None:
        if isinstance(output_bias, str):
            if output_bias != "data":
                raise unknown("output_bias", output_bias, ["data", "a number", "none"])
            return
        if output_bias is None:
            return
        set_bias = density_traits_of(self.likelihood).set_bias
        if set_bias is None:
            raise InputError(f"{type(self.likelihood).__name__} has no set_bias() for output_bias={output_bias}.")
        set_bias(output_bias)

    def prior_density(self) -> TorchDistribution:
        """Return p(z), with event shape (latent,); a prior that is made of posteriors gets the encoder."""
        return self.prior(self.encode if density_traits_of(self.prior).takes_posterior else None)

    def encode(self, x: Tensor, *context: Tensor) -> TorchDistribution:
        """Return q(z given x), with batch shape (batch,) and event shape (latent,).

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
            context: what stands beside x where the encoder is `pvae.networks.Conditioned`.
        """
        return self.posterior(self.encoder(shaped(x, self._input_shape), *context))

    def decode(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        """Return p(x given z) for z of shape (..., latent); its events are flat but for convolutions."""
        return self.likelihood(self.decoder(z, *context))

    def observed(self, x: Tensor) -> Tensor:
        """Return `x` in the shape of the likelihood's events."""
        return shaped(x, self._event_shape)

    def as_data(self, density: TorchDistribution, *, mean: bool) -> Tensor:
        """Return the means of p(x given z), or draws, in the shape of the data."""
        return shaped(density.mean if mean else density.sample(), self.data_shape)

    @torch.no_grad()
    def sample(self, n: int, *, mean: bool = False) -> Tensor:
        """Return `n` new data, shape (n,) + data_shape: draws of x, or with `mean` the means of x given z."""
        return self.as_data(self.decode(self.prior_density().sample((require_whole(n, "n", least=0),))), mean=mean)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of x given the posterior's mean of z at `x`, shape (batch,) + data_shape."""
        return self.as_data(self.decode(self.encode(x).mean), mean=True)

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model: of prior, decoder and likelihood."""
        return list(nn.ModuleList([self.prior, self.decoder, self.likelihood]).parameters())

    def phi(self) -> list[nn.Parameter]:
        """Return the parameters of the guide: all that the model has not."""
        shared = {id(parameter) for parameter in self.theta()}
        return [parameter for parameter in self.parameters() if id(parameter) not in shared]

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Start the prior and, where ``output_bias="data"``, the likelihood's output bias from the data, once."""
        if self.initialised:
            return
        _start(self.prior, shaped(batch["x"], self._input_shape))
        if self._bias_from_data:
            _start(self.likelihood, self.observed(batch["x"]))
        self.initialised.fill_(True)


def _start(density: nn.Module, x: Tensor) -> None:
    start = density_traits_of(density).initialise_from
    if start is not None:
        start(x)


def shaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return `x` with one datum of this shape: (batch, ...) to (batch,) + shape.

    Raises:
        InputError: if one datum has another number of values.
    """
    if x.shape[1:] == shape:
        return x
    if math.prod(x.shape[1:]) != math.prod(shape):
        raise InputError(
            f"x needs {math.prod(shape)} values for each datum, in the shape {shape} or flat, as data_shape says; got "
            f"{tuple(x.shape[1:])}."
        )
    return x.reshape(x.shape[0], *shape)
