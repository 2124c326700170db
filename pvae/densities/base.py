"""What likelihoods share: the layer that turns a decoder's features into numbers for each entry of x."""

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
    """The last layer of a decoder: one number for each entry of x, or several.

    Features of size `in_features` pass a linear layer with a bias for each entry. Feature maps, where
    `in_features` is (filters, height, width), pass a transposed convolution with a bias for each channel.
    Several numbers have a bias each.

    Args:
        in_features: the decoder's ``out_features``.
        data_shape: shape of one x; for feature maps twice their height and width, or one less.
        initialisation: a name of `pvae.networks.INITIALISATIONS`.
        numbers: how many for each entry, in a dimension of their own before `data_shape`; None for one, without
            that dimension.

    Raises:
        InputError: for an unknown name, or if feature maps do not fit the data.

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
        """One number for each entry of x, or, after feature maps, for each channel; where there are several numbers,
        all those of the first come first.
        """
        return self.layer.bias  # type: ignore[return-value]

    def forward(self, h: Tensor) -> Tensor:
        if self.maps:
            return self.layer(h.reshape(-1, *self.maps)).reshape(*h.shape[:-3], *self.out_shape)
        flat = self.layer(h)
        return flat if len(self.out_shape) == 1 else flat.unflatten(-1, self.out_shape)

    def by_bias(self, x: Tensor) -> Tensor:
        """Return the values of `x` that share a bias in one column, shape (rows, number of biases / numbers)."""
        biases = self.bias.numel() // self.numbers
        return x.reshape(len(x), biases, -1).mT.reshape(-1, biases)


class Likelihood(nn.Module, ABC):
    """A density over x whose location is an `OutputLayer` of the decoder's features.

    Args:
        in_features: the decoder's ``out_features``: a number, or (filters, height, width) of feature maps.
        data_shape: shape of one x, which is the distribution's event.
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
            raise InputError(f"A likelihood needs a data_shape of positive sizes; got {self.data_shape}.")
        self.head = OutputLayer(in_features, self.data_shape, initialisation=initialisation, **head)

    @abstractmethod
    def forward(self, context: Tensor) -> TorchDistribution:
        """Return p(x given z), with event shape `data_shape`; `context` is the decoder's output."""

    @abstractmethod
    def initialise_from(self, x: Tensor) -> None:
        """Set the output bias to the best constant prediction of `x`, shape (batch, ...)."""

    def check(self, x: Tensor) -> None:
        """Raise InputError, with what would fit, where values of `x`, shape (batch, ...), have no density here."""
        check_support("x", x, self.constant())

    def constant(self) -> TorchDistribution:
        """Return the prediction at features of zeros, batch shape (1,): what the biases alone say."""
        return self(self.head.bias.new_zeros(1, *self.in_features))

    @torch.no_grad()
    def set_bias(self, bias: float | Tensor) -> None:
        """Set the output bias, in place: one number for all locations, or one for each of `self.head.bias`.

        Raises:
            InputError: if a tensor has another number of entries.
        """
        given, own = torch.as_tensor(bias), self.head.bias
        if given.numel() not in (1, own.numel()):
            raise InputError(f"The output bias has {own.numel()} entries; got {given.numel()}.")
        where = self._locations() if given.numel() == 1 else own
        where.copy_(given.reshape(-1).expand(where.numel()).view_as(where))

    def _locations(self) -> Tensor:
        """The part of the output bias that one number sets: all of it, unless it holds scales or weights too."""
        return self.head.bias
