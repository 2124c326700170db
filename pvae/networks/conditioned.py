"""A network with a condition: a second input that is added in its first layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.networks.base import initialise

__all__ = ["Conditioned"]


class Conditioned(nn.Module):
    """A network with an input x and a condition c: it computes first_layer(x) + V c, then the other layers.

    V has no bias, so a condition of zeros gives exactly the output of the network alone. A network of images can have
    an image as condition; V is then a convolution like the first layer.

    Args:
        network: a network of this package, trained together with V.
        features: size of the condition's last dimension; None for a condition in the shape of the input.
        initialisation: a name of `pvae.networks.INITIALISATIONS`, for V.

    Raises:
        InputError: if `features` is not a whole number of at least 1, or the network does not begin with a linear or
            convolutional layer.

    Shapes: the input of the network, and a condition (..., features) with leading dimensions that broadcast with the
    input's; to (...) + the output of the network.
    """

    def __init__(self, network: nn.Module, features: int | None, *, initialisation: str = "glorot") -> None:
        super().__init__()
        features = None if features is None else require_whole(features, "features")
        self.network = network
        self.in_features: Any = network.in_features
        self.out_features: Any = network.out_features
        self._image_shape = getattr(network, "image_shape", None)
        first = self._layers[0] if len(self._layers) else None
        self._condition_is_image = features is None and isinstance(first, nn.Conv2d)
        if isinstance(first, nn.Conv2d):
            self.layer = (
                _convolution_like(first) if features is None else nn.Linear(features, first.out_channels, bias=False)
            )
        else:
            size: int = self.in_features if features is None else features  # type: ignore[assignment]
            self.layer = nn.Linear(size, _width(first, network), bias=False)
        initialise(self.layer, initialisation)

    @property
    def _layers(self) -> nn.Sequential:
        layers = self.network if isinstance(self.network, nn.Sequential) else self.network.layers
        return layers  # type: ignore[return-value]

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return the output of the network for inputs and conditions, (...) + the output shape of the network.

        Args:
            x: the input of the network.
            condition: (..., features), or in the shape of `x` if `features` is None. The leading dimensions of the two
                inputs broadcast.
        """
        first, *further = self._layers or [nn.Identity()]
        h = self._apply_to_images(first, x) if self._image_shape else first(x)
        h = h + self._condition_term(condition)
        if isinstance(self.out_features, int) and not self._image_shape:
            for layer in further:
                h = layer(h)
            return h
        # convolutional layers take exactly one leading dimension
        event_dims = 3 if self._image_shape else 1
        leading, h = h.shape[:-event_dims], h.reshape(-1, *h.shape[-event_dims:])
        for layer in further:
            h = layer(h)
        return h.reshape(*leading, *_shape(self.out_features))

    def _apply_to_images(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Apply a layer of images, (batch, channels, height, width), to images with any leading dimensions."""
        leading = x.shape[: x.dim() - len(_shape(self.in_features))]
        h = layer(x.reshape(-1, *self._image_shape))  # type: ignore[misc]
        return h.reshape(*leading, *h.shape[1:])

    def _condition_term(self, condition: Tensor) -> Tensor:
        """Return V c, in a shape that broadcasts with the output of the first layer."""
        if self._condition_is_image:
            return self._apply_to_images(self.layer, condition)
        term = self.layer(condition)
        return term[..., None, None] if self._image_shape else term


def _convolution_like(layer: nn.Conv2d) -> nn.Module:
    """Return a convolution with the same shapes as a layer, without bias."""
    return nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=False)  # type: ignore[arg-type]


def _width(layer: nn.Module | None, network: nn.Module) -> int:
    """Return the size of the first layer's output, or of the input if the network has no layers."""
    if layer is None:
        return network.in_features  # type: ignore[return-value]
    linear = next((module for module in layer.modules() if isinstance(module, nn.Linear)), None)
    if linear is None:
        raise InputError(
            f"{type(network).__name__} begins with {type(layer).__name__}, which does not take a condition. Give a "
            "network that begins with a linear or convolutional layer."
        )
    return linear.out_features


def _shape(features: int | tuple[int, ...]) -> tuple[int, ...]:
    return (features,) if isinstance(features, int) else tuple(features)
