"""A network with a condition: what stands beside its input enters its first layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.networks.base import initialise

__all__ = ["Conditioned"]


class Conditioned(nn.Module):
    """A network that takes a condition c beside its input: first layer(x) + V c, then the other layers.

    V has no bias, so that a condition of zeros leaves the network as it is, bit for bit. A network that takes
    images can take an image as condition; it enters by a convolution as the first layer's.

    Args:
        network: a network of this package, trained together with V.
        features: size of the condition's last dimension; None for a condition of the shape of the input.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.

    Raises:
        InputError: if `features` is no positive number, or the network takes a shape that has no first layer.

    Shapes: input as the network's, and condition (..., features), whose leading dimensions broadcast with those of the
    input; to (...,) + the network's output.
    """

    def __init__(self, network: nn.Module, features: int | None, *, initialisation: str = "glorot") -> None:
        super().__init__()
        features = None if features is None else require_whole(features, "features")
        self.network = network
        self.in_features: Any = network.in_features
        self.out_features: Any = network.out_features
        self._image = getattr(network, "image_shape", None)
        first = self._layers[0] if len(self._layers) else None
        self._by_image = features is None and isinstance(first, nn.Conv2d)
        if isinstance(first, nn.Conv2d):
            self.layer = _beside(first) if features is None else nn.Linear(features, first.out_channels, bias=False)
        else:
            size: int = self.in_features if features is None else features  # type: ignore[assignment]
            self.layer = nn.Linear(size, _width(first, network), bias=False)
        initialise(self.layer, initialisation)

    @property
    def _layers(self) -> nn.Sequential:
        layers = self.network if isinstance(self.network, nn.Sequential) else self.network.layers
        return layers  # type: ignore[return-value]

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        first, *others = self._layers or [nn.Identity()]
        h, added = self._images(first, x) if self._image else first(x), self._added(condition)
        h = h + added
        if isinstance(self.out_features, int) and not self._image:
            for layer in others:
                h = layer(h)
            return h
        event = 3 if self._image else 1
        leading, h = h.shape[:-event], h.reshape(-1, *h.shape[-event:])
        for layer in others:
            h = layer(h)
        return h.reshape(*leading, *_shape(self.out_features))

    def _images(self, layer: nn.Module, x: Tensor) -> Tensor:
        """The layer of images with any leading dimensions."""
        leading = x.shape[: x.dim() - len(_shape(self.in_features))]
        h = layer(x.reshape(-1, *self._image))  # type: ignore[misc]
        return h.reshape(*leading, *h.shape[1:])

    def _added(self, condition: Tensor) -> Tensor:
        if self._by_image:
            return self._images(self.layer, condition)
        added = self.layer(condition)
        return added[..., None, None] if self._image else added


def _beside(layer: nn.Conv2d) -> nn.Module:
    """A convolution of the same output as `layer`, without bias."""
    return nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=False)  # type: ignore[arg-type]


def _width(layer: nn.Module | None, network: nn.Module) -> int:
    """The size of what the first layer gives; without layers, of the input."""
    if layer is None:
        return network.in_features  # type: ignore[return-value]
    linear = next((each for each in layer.modules() if isinstance(each, nn.Linear)), None)
    if linear is None:
        raise InputError(f"{type(network).__name__} begins with {type(layer).__name__}, which takes no condition.")
    return linear.out_features


def _shape(features: int | tuple[int, ...]) -> tuple[int, ...]:
    return (features,) if isinstance(features, int) else tuple(features)
