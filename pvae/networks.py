"""Networks: tensors to tensors. Leading dimensions (particles, batch) are free everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pvae.errors import InputError
from pvae.names import unknown

__all__ = [
    "ACTIVATIONS",
    "INITIALISATIONS",
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "GatedMLP",
    "activation_layer",
    "doubling",
    "image_shape",
    "initialise",
]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}
_WEIGHTS: dict[str, Callable[[Tensor], Tensor] | None] = {
    "glorot": nn.init.xavier_uniform_,
    "he": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "default": None,
}
INITIALISATIONS = tuple(_WEIGHTS)


def activation_layer(name: str) -> nn.Module:
    """Return the activation of this name, as a layer.

    Raises:
        InputError: if the name is not known; the nearest known one is named.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation", str(name), ACTIVATIONS)
    return ACTIVATIONS[name]()


def initialise(module: nn.Module, initialisation: str) -> None:
    """Draw the weights of every linear and convolutional layer inside `module` afresh, in place.

    Args:
        module: any module; layers of other kinds are left alone.
        initialisation: ``"glorot"`` (uniform, zero biases: Glorot & Bengio 2010), ``"he"`` (normal, zero
            biases: He et al. 2015, for rectifiers) or ``"default"`` (PyTorch's own, which is left as it is).
    Raises:
        InputError: if the name is not known; the nearest known one is named.
    """
    if initialisation not in _WEIGHTS:
        raise unknown("initialisation", str(initialisation), _WEIGHTS)
    draw = _WEIGHTS[initialisation]
    if draw is None:
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def image_shape(data_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (channels, height, width); a shape (height, width) has one channel.

    Raises:
        InputError: if the shape is not that of an image.
    """
    shape = tuple(data_shape)
    if len(shape) not in (2, 3):
        raise InputError(
            "Convolutions need data of shape (height, width) or (channels, height, width); "
            f"got {shape}. Use network='mlp', or reshape the data."
        )
    return (1, *shape) if len(shape) == 2 else shape  # type: ignore[return-value]


class MLP(nn.Sequential):
    """A multilayer perceptron: linear layers, each hidden one followed by the activation.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the output, from a last linear layer without activation; None ends with the last
            hidden layer (and its activation), so that a density's own head follows.
        hidden: sizes of the hidden layers, in order.
        activation: a name of `ACTIVATIONS`.
        initialisation: a name of `INITIALISATIONS`, see `initialise`.
    Raises:
        InputError: for an unknown name.

    Shapes: (..., in_features) to (..., out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int | None = None,
        *,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        initialisation: str = "glorot",
    ) -> None:
        super().__init__()
        self.in_features, size = in_features, in_features
        for width in hidden:
            self.extend([nn.Linear(size, width), activation_layer(activation)])
            size = width
        if out_features is not None:
            self.append(nn.Linear(size, out_features))
        self.out_features = size if out_features is None else out_features
        initialise(self, initialisation)


class _Gate(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.gate = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.gate(x).sigmoid()


class GatedMLP(nn.Sequential):
    """A multilayer perceptron of gated layers, h = (W x + b) * sigmoid(V x + c), without other activation.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the output, from a last linear layer without gate; None ends with the last
            hidden layer, so that a density's own head follows.
        hidden: sizes of the hidden layers, in order.
        initialisation: a name of `INITIALISATIONS`, see `initialise`.
    Raises:
        InputError: for an unknown name.

    Shapes: (..., in_features) to (..., out_features).
    Source: Dauphin et al., Language Modeling with Gated Convolutional Networks, arXiv:1612.08083; as in
    Tomczak & Welling, VAE with a VampPrior, arXiv:1705.07120.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int | None = None,
        *,
        hidden: Sequence[int] = (200, 200),
        initialisation: str = "glorot",
    ) -> None:
        super().__init__()
        self.in_features, size = in_features, in_features
        for width in hidden:
            self.append(_Gate(size, width))
            size = width
        if out_features is not None:
            self.append(nn.Linear(size, out_features))
        self.out_features = size if out_features is None else out_features
        initialise(self, initialisation)


def _halvings(size: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """The image sizes, from full to smallest, of `count` convolutions of kernel 3, stride 2 and padding 1."""
    sizes = [size]
    for _ in range(count):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def doubling(channels: int, out_channels: int, size: tuple[int, int]) -> nn.ConvTranspose2d:
    """The transposed convolution that undoes one halving to this size: even sizes need one more row."""
    extra = ((size[0] + 1) % 2, (size[1] + 1) % 2)
    return nn.ConvTranspose2d(channels, out_channels, 3, stride=2, padding=1, output_padding=extra)


class ConvEncoder(nn.Module):
    """Convolutions of stride 2 that turn an image of any size into features.

    Args:
        data_shape: (height, width), which means one channel, or (channels, height, width).
        out_features: size of the output, from a last linear layer; None gives the last feature maps, flat.
        hidden: number of filters of each convolution; each halves height and width (rounding up).
        activation: a name of `ACTIVATIONS`.
        initialisation: a name of `INITIALISATIONS`, see `initialise`.
    Raises:
        InputError: for an unknown name, or data that are not images.

    Shapes: (...) + data_shape to (..., out_features). ``in_features`` is `data_shape`.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        out_features: int | None = None,
        *,
        hidden: Sequence[int] = (32, 64),
        activation: str = "relu",
        initialisation: str = "glorot",
    ) -> None:
        super().__init__()
        self.in_features = tuple(data_shape)
        self.image_shape = image_shape(data_shape)
        channels, *size = self.image_shape
        self.layers = nn.Sequential()
        for filters in hidden:
            self.layers.extend([nn.Conv2d(channels, filters, 3, stride=2, padding=1), activation_layer(activation)])
            channels = filters
        smallest = _halvings((size[0], size[1]), len(hidden))[-1]
        flat = channels * math.prod(smallest)
        self.layers.append(nn.Flatten())
        if out_features is not None:
            self.layers.append(nn.Linear(flat, out_features))
        self.out_features = flat if out_features is None else out_features
        initialise(self, initialisation)

    def forward(self, x: Tensor) -> Tensor:
        leading = x.shape[: x.dim() - len(self.in_features)]
        return self.layers(x.reshape(-1, *self.image_shape)).reshape(*leading, self.out_features)


class ConvDecoder(nn.Module):
    """The mirror of `ConvEncoder` up to feature maps of half the image's size; a likelihood makes the image.

    Args:
        in_features: size of the last dimension of the input.
        data_shape: (height, width), which means one channel, or (channels, height, width), of the image.
        hidden: number of filters of the feature maps, from the smallest maps to the largest.
        activation: a name of `ACTIVATIONS`.
        initialisation: a name of `INITIALISATIONS`, see `initialise`.
    Raises:
        InputError: for an unknown name, no filters, or data that are not images.

    Shapes: (..., in_features) to (..., filters, height, width), which is ``out_features``: half of the
    image in height and width (rounded up).
    """

    def __init__(
        self,
        in_features: int,
        data_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (64, 32),
        activation: str = "relu",
        initialisation: str = "glorot",
    ) -> None:
        super().__init__()
        if not hidden:
            raise InputError("A convolutional decoder needs at least one number of filters; got hidden=().")
        _, height, width = image_shape(data_shape)
        sizes = _halvings((height, width), len(hidden))[::-1]
        smallest = (hidden[0], *sizes[0])
        self.in_features = in_features
        self.layers = nn.Sequential(
            nn.Linear(in_features, math.prod(smallest)),
            nn.Unflatten(-1, smallest),
            activation_layer(activation),
        )
        for channels, filters, size in zip(hidden, hidden[1:], sizes[1:], strict=False):
            self.layers.extend([doubling(channels, filters, size), activation_layer(activation)])
        self.out_features = (hidden[-1], *sizes[-2])
        initialise(self, initialisation)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z.reshape(-1, self.in_features)).reshape(*z.shape[:-1], *self.out_features)
