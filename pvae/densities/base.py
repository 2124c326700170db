"""The base class of likelihoods, and their output layer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pvae.data import check_support
from pvae.errors import InputError
from pvae.networks import doubling, image_shape, initialise

__all__ = ["Likelihood", "OutputLayer"]


class OutputLayer(nn.Module):
    """The last layer of a decoder, which returns one number or several for each entry of x.

    For features of size `in_features` it is a linear layer, with a bias for each entry. For feature maps, where
    `in_features` is (filters, height, width), it is a transposed convolution, with a bias for each channel. Each of
    several numbers has separate biases.

    Args:
        in_features: the attribute ``out_features`` of the decoder.
        data_shape: shape of one x. For feature maps, its height and width are twice the maps' height and width, or one
            less.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.
        numbers: the number of numbers for each entry; they have an extra dimension before `data_shape`. None gives one
            number, without that dimension.

    Raises:
        InputError: for an unknown name, or if the feature maps do not fit the data.

    Shapes: (..., in_features) or (..., filters, height, width) to (..., data_shape), or (..., numbers, data_shape).
    """

    def __init__(
        self,
        in_features: int | Sequence[int],
        data_shape: Sequence[int],
        *,
        initialisation: str = "glorot",
        numbers: int | None = None,
    ) -> None:
        super().__init__()
        self.data_shape = tuple(data_shape)
        self.numbers = numbers or 1
        self.out_shape = self.data_shape if numbers is None else (numbers, *self.data_shape)
        self.maps = () if isinstance(in_features, int) else tuple(in_features)
        if isinstance(in_features, int):
            self.layer: nn.Module = nn.Linear(in_features, math.prod(self.out_shape))
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
        return doubling(self.maps[0], self.numbers * channels, (height, width))

    @property
    def bias(self) -> nn.Parameter:
        """The biases, shape (numbers * entries,), or (numbers * channels,) after feature maps.

        All biases of the first number come first, then all biases of the second, and so on.
        """
        return self.layer.bias  # type: ignore[return-value]

    def forward(self, h: Tensor) -> Tensor:
        """Return the numbers, shape (..., data_shape) or (..., numbers, data_shape), for the features of a decoder."""
        if self.maps:
            return self.layer(h.reshape(-1, *self.maps)).reshape(*h.shape[:-3], *self.out_shape)
        flat = self.layer(h)
        return flat if len(self.out_shape) == 1 else flat.unflatten(-1, self.out_shape)

    def by_bias(self, x: Tensor) -> Tensor:
        """Return data with all values that share a bias in one column.

        Args:
            x: data, shape (batch, ...).

        Returns:
            Shape (rows, biases of one number): one row per datum, or one per datum and pixel after feature maps.
        """
        biases = self.bias.numel() // self.numbers
        return x.reshape(len(x), biases, -1).mT.reshape(-1, biases)


class Likelihood(nn.Module, ABC):
    """A density over x with parameters from an `OutputLayer` of the decoder's features.

    Args:
        in_features: the attribute ``out_features`` of the decoder: a number, or (filters, height, width).
        data_shape: shape of one x, which is the event shape of the distribution.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.
        head: further arguments of the `OutputLayer`, for densities that need several numbers for each entry.

    Raises:
        InputError: for an unknown name, an empty shape, or feature maps that do not fit the data.
    """

    def __init__(
        self,
        in_features: int | Sequence[int],
        data_shape: Sequence[int],
        *,
        initialisation: str = "glorot",
        **head: int,
    ) -> None:
        super().__init__()
        self.in_features = (in_features,) if isinstance(in_features, int) else tuple(in_features)
        self.data_shape = tuple(data_shape)
        if not self.data_shape or min(self.data_shape) < 1:
            raise InputError(
                f"A likelihood needs a data_shape of positive sizes; got {self.data_shape}. Give the shape of one x."
            )
        self.head = OutputLayer(in_features, self.data_shape, initialisation=initialisation, **head)

    @abstractmethod
    def forward(self, context: Tensor) -> TorchDistribution:
        """Return p(x given z) with event shape `data_shape`.

        Args:
            context: the output of the decoder, shape (...) + in_features.
        """

    @abstractmethod
    def initialise_from(self, x: Tensor) -> None:
        """Set the output bias to the best constant prediction of the data.

        Args:
            x: data, shape (batch, ...).
        """

    def check(self, x: Tensor) -> None:
        """Check that data are in the support of the likelihood.

        Args:
            x: data, shape (batch, ...).

        Raises:
            InputError: if a value is outside; the message gives the likelihoods that fit.
        """
        check_support("x", x, self.constant())

    def constant(self) -> TorchDistribution:
        """Return p(x given z) at features of 0, batch shape (1,); it depends only on the biases."""
        return self(self.head.bias.new_zeros(1, *self.in_features))

    @torch.no_grad()
    def set_bias(self, bias: float | Tensor) -> None:
        """Set the output bias, in place.

        Args:
            bias: one number for all locations, or a tensor with an entry for each of `self.head.bias`.

        Raises:
            InputError: if a tensor has another number of entries.
        """
        new, head_bias = torch.as_tensor(bias), self.head.bias
        if new.numel() not in (1, head_bias.numel()):
            raise InputError(
                f"The output bias needs 1 or {head_bias.numel()} entries; got {new.numel()}. Give one number for all "
                "locations."
            )
        target = self._location_bias() if new.numel() == 1 else head_bias
        target.copy_(new.reshape(-1).expand(target.numel()).view_as(target))

    def _location_bias(self) -> Tensor:
        """Return the part of the output bias that sets locations: all of it, unless it sets scales or weights too."""
        return self.head.bias
