"""The base class of the VAE family: parts by name, parameter groups, and initial values from the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.checks import require_sizes, require_whole
from pvae.densities import VonMisesFisher, part
from pvae.densities.parts import require_matching_parts
from pvae.errors import InputError
from pvae.models.datum_shapes import reshape_data
from pvae.models.density_traits import density_traits_of
from pvae.models.direct_calls import takes_data
from pvae.names import unknown
from pvae.networks import MLP, ConvDecoder, ConvEncoder, GatedMLP
from pvae.programs.base import LatentModel

__all__ = [
    "NETWORKS",
    "BaseVAE",
    "NetworkKind",
    "NetworkParts",
    "Parts",
    "code_of",
    "initialise_density",
    "network_kind",
]

EncoderAndDecoder = tuple[nn.Module, nn.Module]


def _make_mlp(data_shape: tuple[int, ...], latent: int, hidden: tuple[int, ...], **style: Any) -> EncoderAndDecoder:
    features = math.prod(data_shape)
    return MLP(features, hidden=hidden, **style), MLP(latent, hidden=hidden[::-1], **style)


def _make_gated(data_shape: tuple[int, ...], latent: int, hidden: tuple[int, ...], **style: Any) -> EncoderAndDecoder:
    features = math.prod(data_shape)
    return GatedMLP(features, hidden=hidden, **style), GatedMLP(latent, hidden=hidden[::-1], **style)


def _make_conv(data_shape: tuple[int, ...], latent: int, hidden: tuple[int, ...], **style: Any) -> EncoderAndDecoder:
    encoder = ConvEncoder(data_shape, hidden=hidden, **style)
    return encoder, ConvDecoder(latent, data_shape, hidden=hidden[::-1], **style)


def _make_resnet(data_shape: tuple[int, ...], latent: int, hidden: tuple[int, ...], **style: Any) -> EncoderAndDecoder:
    return _make_conv(data_shape, latent, hidden, blocks=1, **style)


@dataclass(frozen=True)
class NetworkKind:
    """A kind of encoder and decoder, with its defaults.

    Attributes:
        make: a function of data_shape, latent and hidden that returns an encoder and a decoder.
        hidden: the default sizes of the encoder's hidden layers.
        activation: the default activation; None if the networks take none.
        is_flat: whether the networks read and write one flat vector for each datum; else images.
    """

    make: Callable[..., EncoderAndDecoder]
    hidden: tuple[int, ...]
    activation: str | None
    is_flat: bool

    def style(self, name: str, activation: str | None, initialisation: str) -> dict[str, Any]:
        """Return the settings that all networks and heads of a model share.

        Raises:
            InputError: for an activation, if the networks take none.
        """
        if self.activation is not None:
            return {"activation": activation or self.activation, "initialisation": initialisation}
        if activation is not None:
            raise InputError(f"A {name} network takes no activation; got {activation!r}. Leave it out.")
        return {"initialisation": initialisation}


NETWORKS: dict[str, NetworkKind] = {
    "mlp": NetworkKind(_make_mlp, (200, 200), "tanh", is_flat=True),
    "gated": NetworkKind(_make_gated, (200, 200), None, is_flat=True),
    "conv": NetworkKind(_make_conv, (32, 64), "relu", is_flat=False),
    "resnet": NetworkKind(_make_resnet, (32, 64), "relu", is_flat=False),
}


def network_kind(name: str) -> NetworkKind:
    """Return the kind of network of a name of `NETWORKS`.

    Raises:
        InputError: for an unknown name; the message names the nearest known one.
    """
    if name not in NETWORKS:
        raise unknown("network", str(name), NETWORKS)
    return NETWORKS[name]


def _check_data_shape(data_shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = require_sizes(data_shape, "data_shape", advice="It is the shape of one x, such as (28, 28).")
    if not sizes:
        raise InputError("data_shape needs the size of one x; got (). Give x of one number per datum as a column.")
    return sizes


def _check_hidden(hidden: int | Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of the hidden layers; () for 0, as written on a command line, and for an empty sequence."""
    return require_sizes(hidden, "hidden", zero=True, advice="For example hidden=200,200; 0 means no hidden layer.")


class NetworkParts(TypedDict, total=False):
    """The arguments of `BaseVAE` that do not concern z, for classes that pass them on and have their own z."""

    hidden: int | Sequence[int] | None
    network: str
    activation: str | None
    initialisation: str
    output_bias: str | float | Tensor | None
    likelihood: str | nn.Module


class Parts(NetworkParts, total=False):
    """The arguments of `BaseVAE` except the shape of the data, for classes that pass them on."""

    latent: int
    prior: str | nn.Module
    posterior: str | nn.Module


class BaseVAE(LatentModel):
    """A prior, an encoder with its posterior, and a decoder with its likelihood; subclasses write the two programs.

    x may be flat, (batch, features), or shaped, (batch,) + data_shape.

    Args:
        data_shape: shape of one x, such as (784,) or (28, 28); convolutions need (height, width) or
            (channels, height, width).
        latent: number of latent dimensions.
        hidden: sizes of the encoder's hidden layers (numbers of filters, for convolutions). The decoder has the same
            sizes in reverse order. By default (200, 200), and (32, 64) for convolutions. 0 or () means no hidden
            layer: encoder and decoder are then linear. Convolutions need at least one.
        network: a name of `NETWORKS`.
        activation: a name of `pvae.networks.ACTIVATIONS`; by default ``"tanh"``, and ``"relu"`` for convolutions.
            Gated networks have none.
        initialisation: a name of `pvae.networks.INITIALISATIONS`, for networks and heads.
        output_bias: ``"data"`` lets `initialise_from` set the likelihood's output bias from the data, if the likelihood
            has a method for it; a number or a tensor sets the bias immediately; None does not set it.
        prior: a name of `pvae.densities.PRIORS`, with settings after colons, or a density as a module.
        posterior: a name of `pvae.densities.POSTERIORS`, or a density as a module. Its context is the output of the
            encoder.
        likelihood: a name of `pvae.densities.LIKELIHOODS` (``"gaussian:scale=0.1"``), or a density as a module. Its
            context is the output of the decoder. Its events have the shape of its attribute ``data_shape`` if it has
            one, else the shape of the data.

    Raises:
        InputError: for an argument that cannot be used, in one line; for an unknown name, with the nearest known one.
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
        self.data_shape = _check_data_shape(data_shape)
        self.latent = require_whole(latent, "latent")
        self.initialisation = initialisation
        kind = network_kind(network)
        style = kind.style(network, activation, initialisation)
        sizes = kind.hidden if hidden is None else _check_hidden(hidden)
        # Only convolutions need the shape of an image. For other networks, a flat event avoids reshapes.
        self._input_shape = (math.prod(self.data_shape),) if kind.is_flat else self.data_shape
        self.prior = part("prior", prior, self.latent, data_shape=self._input_shape, **style)
        self.encoder, self.decoder = kind.make(self.data_shape, self.latent, sizes, **style)
        self.posterior = part("posterior", posterior, self.encoder.out_features, self.latent, **style)
        require_matching_parts(self.prior, self.posterior)
        self.likelihood = part("likelihood", likelihood, self.decoder.out_features, self._input_shape, **style)
        event_shape = density_traits_of(self.likelihood).data_shape
        self._event_shape = self.data_shape if event_shape is None else tuple(event_shape)
        self._bias_from_data = isinstance(output_bias, str)
        self._set_output_bias(output_bias)
        # The buffer is saved with the model, so that a resumed or a second training does not reset a trained bias.
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
            raise InputError(
                f"output_bias={output_bias} needs a likelihood with a method set_bias(); "
                f"{type(self.likelihood).__name__} has no set_bias(). Write one, or leave output_bias out."
            )
        set_bias(output_bias)

    def prior_density(self) -> TorchDistribution:
        """Return p(z), with event shape (latent,). A prior that is made of posteriors gets `encode`."""
        return self.prior(self.encode if density_traits_of(self.prior).takes_posterior else None)

    @takes_data
    def encode(self, x: Tensor, *context: Tensor) -> TorchDistribution:
        """Return q(z given x), with batch shape (batch,) and event shape (latent,).

        Args:
            x: data, (batch, features) or (batch,) + data_shape.
            context: the second input of an encoder that is `pvae.networks.Conditioned`, shape (..., features).
        """
        return self.posterior(self.encoder(reshape_data(x, self._input_shape, self.data_shape), *context))

    def decode(self, z: Tensor, *context: Tensor) -> TorchDistribution:
        """Return p(x given z), with batch shape (...). Its events are flat, except for convolutions.

        Args:
            z: latent values, (..., latent).
            context: the second input of a decoder that is `pvae.networks.Conditioned`, shape (..., features).
        """
        return self.likelihood(self.decoder(z, *context))

    def observed(self, x: Tensor) -> Tensor:
        """Return x in the shape of the likelihood's events, (batch,) + event shape."""
        return reshape_data(x, self._event_shape, self.data_shape)

    def as_data(self, density: TorchDistribution, *, mean: bool) -> Tensor:
        """Return the mean of p(x given z), or a draw, in the shape of the data, (batch,) + data_shape."""
        return reshape_data(density.mean if mean else density.sample(), self.data_shape)

    @torch.no_grad()
    def sample(self, n: int, *, mean: bool = False) -> Tensor:
        """Return new data, shape (n,) + data_shape.

        Args:
            n: number of data, at least 0.
            mean: whether to return the means of x given z; otherwise draws of x.
        """
        n = require_whole(n, "n", least=0)
        return self.as_data(self.decode(self.prior_density().sample((n,))), mean=mean)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Return the mean of x given the posterior mean of z at `x`, shape (batch,) + data_shape.

        On a sphere, the mean direction replaces the mean, which is inside the sphere.
        """
        return self.as_data(self.decode(code_of(self.encode(x))), mean=True)

    def theta(self) -> list[nn.Parameter]:
        """Return the parameters of the model: prior, decoder and likelihood."""
        return list(nn.ModuleList([self.prior, self.decoder, self.likelihood]).parameters())

    def phi(self) -> list[nn.Parameter]:
        """Return the parameters of the guide: all parameters that `theta` does not contain."""
        in_theta = {id(parameter) for parameter in self.theta()}
        return [parameter for parameter in self.parameters() if id(parameter) not in in_theta]

    def initialise_from(self, batch: Mapping[str, Tensor]) -> None:
        """Initialise the prior and, if ``output_bias="data"``, the likelihood's output bias from the data; only once.

        Args:
            batch: the training data, with x of shape (data, features) or (data,) + data_shape.
        """
        if self.initialised:
            return
        initialise_density(self.prior, reshape_data(batch["x"], self._input_shape))
        if self._bias_from_data:
            initialise_density(self.likelihood, self.observed(batch["x"]))
        self.initialised.fill_(True)


def code_of(density: TorchDistribution) -> Tensor:
    """Return the value of z that represents a posterior: its mean, and on a sphere its mean direction."""
    return density.mode if isinstance(density, VonMisesFisher) else density.mean


def initialise_density(density: nn.Module, x: Tensor) -> None:
    """Initialise a density from the data x, shape (data, ...), if it has a method for it."""
    initialise_from = density_traits_of(density).initialise_from
    if initialise_from is not None:
        initialise_from(x)
