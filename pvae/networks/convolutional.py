"""Encoders and decoders of images by convolutions of stride 2, for images of any size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.networks.base import activation_layer, initialise
from pvae.networks.residual import ResidualBlock, start_as_identity
from pvae.picture_axes import has_channels_last

__all__ = ["ConvDecoder", "ConvEncoder", "doubling", "image_shape"]


def image_shape(data_shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the shape of an image as (channels, height, width).

    Args:
        data_shape: (height, width), which means one channel, or (channels, height, width).

    Raises:
        InputError: if the shape has another number of dimensions.
    """
    shape = tuple(data_shape)
    if len(shape) not in (2, 3):
        raise InputError(
            "Convolutions need data of shape (height, width) or (channels, height, width); "
            f"got {shape}. Use network='mlp' or 'gated', or reshape the data."
        )
    return (1, *shape) if len(shape) == 2 else shape  # type: ignore[return-value]


def _warn_of_channels_last(shape: tuple[int, int, int]) -> None:
    if has_channels_last(shape):
        channels, height, width = shape
        warnings.warn(
            f"The data_shape {shape} means {channels} channels of {height} by {width} pixels, because channels are "
            f"first; it looks like {width} channels at the end. load_data changes the order of such pictures: use its "
            "data_shape, "
            f"{(width, channels, height)}.",
            stacklevel=4,
        )


def _halvings(size: tuple[int, int], count: int) -> list[tuple[int, int]]:
    """Return the image sizes before and after each of `count` convolutions of kernel 3, stride 2 and padding 1."""
    sizes = [size]
    for _ in range(count):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def doubling(channels: int, out_channels: int, size: tuple[int, int]) -> nn.ConvTranspose2d:
    """Return the transposed convolution that inverts the shapes of one convolution of stride 2.

    Args:
        channels: number of feature maps of the input.
        out_channels: number of feature maps of the output.
        size: height and width of the output; the input has half of each, rounded up.

    Returns:
        A layer from (batch, channels, ...) to (batch, out_channels, height, width).
    """
    # an even size needs one more row or column
    extra = ((size[0] + 1) % 2, (size[1] + 1) % 2)
    return nn.ConvTranspose2d(channels, out_channels, 3, stride=2, padding=1, output_padding=extra)


def _blocks_and_activation(filters: int, blocks: int, activation: str) -> list[nn.Module]:
    """Return the layers that follow each convolution: residual blocks, then an activation."""
    blocks = require_whole(blocks, "blocks", least=0, advice="It is the number of residual blocks at each size.")
    layers: list[nn.Module] = [ResidualBlock(filters, activation=activation) for _ in range(blocks)]
    return [*layers, activation_layer(activation)]


class ConvEncoder(nn.Module):
    """An encoder from an image of any size to features, by convolutions of stride 2.

    Args:
        data_shape: (height, width), which means one channel, or (channels, height, width).
        out_features: size of the output of a last linear layer; None returns the last feature maps, flattened.
        hidden: number of filters of each convolution; each convolution halves height and width, rounding up.
        activation: a name of `ACTIVATIONS`.
        initialisation: a name of `INITIALISATIONS`, see `initialise`.
        blocks: number of residual blocks after each convolution, see `ResidualBlock`.

    Raises:
        InputError: for an unknown name, a number of blocks below 0, or a shape that is not the shape of an image.

    Shapes: (...) + data_shape to (..., out_features). The attribute ``in_features`` is `data_shape`.

    Example:
        >>> import pvae, torch
        >>> encoder = pvae.ConvEncoder((1, 8, 8), 10, hidden=(8, 16))
        >>> encoder(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        out_features: int | None = None,
        *,
        hidden: Sequence[int] = (32, 64),
        activation: str = "relu",
        initialisation: str = "glorot",
        blocks: int = 0,
    ) -> None:
        super().__init__()
        self.in_features = tuple(data_shape)
        self.image_shape = image_shape(data_shape)
        _warn_of_channels_last(self.image_shape)
        channels, *size = self.image_shape
        self.layers = nn.Sequential()
        for filters in hidden:
            self.layers.append(nn.Conv2d(channels, filters, 3, stride=2, padding=1))
            self.layers.extend(_blocks_and_activation(filters, blocks, activation))
            channels = filters
        smallest = _halvings((size[0], size[1]), len(hidden))[-1]
        flat = channels * math.prod(smallest)
        self.layers.append(nn.Flatten())
        if out_features is not None:
            self.layers.append(nn.Linear(flat, out_features))
        self.out_features = flat if out_features is None else out_features
        initialise(self, initialisation)
        start_as_identity(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return features, shape (..., out_features), of images of shape (...) + data_shape."""
        leading = x.shape[: x.dim() - len(self.in_features)]
        return self.layers(x.reshape(-1, *self.image_shape)).reshape(*leading, self.out_features)


class ConvDecoder(nn.Module):
    """A decoder from features to feature maps of half the image's size, by transposed convolutions of stride 2.

    It reverses `ConvEncoder` without the layer next to the image; the likelihood has that layer.

    Args:
        in_features: size of the last dimension of the input.
        data_shape: (height, width), which means one channel, or (channels, height, width), of the image.
        hidden: number of filters of the feature maps, from the smallest maps to the largest.
        activation: a name of `ACTIVATIONS`.
        initialisation: a name of `INITIALISATIONS`, see `initialise`.
        blocks: number of residual blocks at each size of maps, see `ResidualBlock`.

    Raises:
        InputError: for an unknown name, no filters, a number of blocks below 0, or a shape that is not the shape of an
            image.

    Shapes: (..., in_features) to (..., filters, height, width), with half of the height and width of the image, rounded
    up. The attribute ``out_features`` is (filters, height, width).

    Example:
        >>> import pvae, torch
        >>> decoder = pvae.ConvDecoder(2, (1, 8, 8), hidden=(16, 8))
        >>> decoder.out_features
        (8, 4, 4)
        >>> decoder(torch.zeros(5, 2)).shape
        torch.Size([5, 8, 4, 4])
    """

    def __init__(
        self,
        in_features: int,
        data_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (64, 32),
        activation: str = "relu",
        initialisation: str = "glorot",
        blocks: int = 0,
    ) -> None:
        super().__init__()
        if not hidden:
            raise InputError(
                "A convolutional decoder needs at least one number of filters; got hidden=(). For example hidden=32,64."
            )
        _, height, width = image_shape(data_shape)
        sizes = _halvings((height, width), len(hidden))[::-1]
        smallest = (hidden[0], *sizes[0])
        self.in_features = in_features
        self.layers = nn.Sequential(
            nn.Linear(in_features, math.prod(smallest)),
            nn.Unflatten(-1, smallest),
            *_blocks_and_activation(hidden[0], blocks, activation),
        )
        for channels, filters, size in zip(hidden, hidden[1:], sizes[1:], strict=False):
            self.layers.extend(
                [doubling(channels, filters, size), *_blocks_and_activation(filters, blocks, activation)]
            )
        self.out_features = (hidden[-1], *sizes[-2])
        initialise(self, initialisation)
        start_as_identity(self)

    def forward(self, z: Tensor) -> Tensor:
        """Return feature maps, shape (...) + out_features, of inputs of shape (..., in_features)."""
        return self.layers(z.reshape(-1, self.in_features)).reshape(*z.shape[:-1], *self.out_features)
