"""What likelihoods share: the layer that turns a decoder's features into one number for each entry of x."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.errors import InputError
from pvae.networks import doubling, image_shape, initialise

__all__ = ["Likelihood", "OutputLayer"]


class OutputLayer(nn.Module):
    """The last layer of a decoder: one number for each entry of x.

    Features of size `in_features` pass a linear layer with a bias for each entry. Feature maps, where
    `in_features` is (filters, height, width), pass a transposed convolution with a bias for each channel.

    Args:
        in_features: the decoder's ``out_features``.
        data_shape: shape of one x; for feature maps twice their height and width, or one less.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.
    Raises:
        InputError: for an unknown name, or if feature maps do not fit the data.

    Shapes: (..., in_features) or (..., filters, height, width) to (..., data_shape).
    """

    def __init__(
        self, in_features: int | Sequence[int], data_shape: Sequence[int], *, initialisation: str = "glorot"
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.maps = () if isinstance(in_features, int) else tuple(in_features)
        if isinstance(in_features, int):
            self.layer: nn.Module = nn.Linear(in_features, math.prod(self.data_shape))
        else:
            self.layer = self._convolution()
        initialise(self, initialisation)

    def _convolution(self) -> nn.Module:
        channels, height, width = image_shape(self.data_shape)
        if self.maps[1:] != ((height + 1) // 2, (width + 1) // 2):
            raise InputError(
                f"Data of shape {self.data_shape} need feature maps of half their height and width; "
                f"got maps of shape {self.maps}. Build the decoder for the same data_shape."
            )
        return doubling(self.maps[0], channels, (height, width))

    @property
    def bias(self) -> nn.Parameter:
        """One number for each entry of x, or, after feature maps, for each channel."""
        return self.layer.bias  # type: ignore[return-value]

    def forward(self, h: Tensor) -> Tensor:
        if self.maps:
            return self.layer(h.reshape(-1, *self.maps)).reshape(*h.shape[:-3], *self.data_shape)
        flat = self.layer(h)
        return flat if len(self.data_shape) == 1 else flat.unflatten(-1, self.data_shape)

    def by_bias(self, x: Tensor) -> Tensor:
        """Return the values of `x` that share a bias in one column, shape (rows, number of biases)."""
        biases = self.bias.numel()
        return x.reshape(len(x), biases, -1).mT.reshape(-1, biases)


class Likelihood(nn.Module, ABC):
    """A density over x whose location is an `OutputLayer` of the decoder's features.

    Args:
        in_features: the decoder's ``out_features``: a number, or (filters, height, width) of feature maps.
        data_shape: shape of one x, which is the distribution's event.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.
    Raises:
        InputError: for an unknown name, an empty shape, or feature maps that do not fit the data.
    """

    def __init__(
        self, in_features: int | Sequence[int], data_shape: Sequence[int], *, initialisation: str = "glorot"
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        if not self.data_shape or min(self.data_shape) < 1:
            raise InputError(f"A likelihood needs a data_shape of positive sizes; got {self.data_shape}.")
        self.head = OutputLayer(in_features, self.data_shape, initialisation=initialisation)

    @abstractmethod
    def forward(self, context: Tensor) -> TorchDistribution:
        """Return p(x given z), with event shape `data_shape`; `context` is the decoder's output."""

    @abstractmethod
    def initialise_from(self, x: Tensor) -> None:
        """Set the output bias to the best constant prediction of `x`, shape (batch, ...)."""

    @torch.no_grad()
    def set_bias(self, bias: float | Tensor) -> None:
        """Set the output bias, in place: one number for all, or one for each of `self.head.bias`.

        Raises:
            InputError: if a tensor has another number of entries.
        """
        given, own = torch.as_tensor(bias), self.head.bias
        if given.numel() not in (1, own.numel()):
            raise InputError(f"The output bias has {own.numel()} entries; got {given.numel()}.")
        own.copy_(given.reshape(-1).expand_as(own))
