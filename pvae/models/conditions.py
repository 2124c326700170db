"""What a model is conditioned on: labels, vectors, or quadrants of x, as centred features."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from pvae.checks import require_sizes, require_whole
from pvae.errors import InputError
from pvae.programs.classifier import outside_classes
from pvae.weights.site_validation import is_traced

__all__ = ["Condition", "Labels", "Quadrants", "Vectors"]


class Condition(nn.Module, ABC):
    """A field of the batch as features, shape (batch, features), centred and scaled by the training data.

    A feature that never varies in training is 0, exactly, whatever comes later: nothing was learned of it.

    Args:
        field: the field of the batch.
        features: how many numbers the condition has.
        apart: whether each feature is scaled by its own deviation; else all by one, where they share a unit.
    """

    centre: Tensor
    factor: Tensor

    def __init__(self, field: str, features: int, *, apart: bool = False) -> None:
        super().__init__()
        self.field, self.features, self.apart = field, features, apart
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("factor", torch.ones(features))

    @abstractmethod
    def raw(self, value: Tensor) -> Tensor:
        """Return the features before centring, shape (batch, features)."""

    @abstractmethod
    def check(self, value: Tensor) -> None:
        """Raise InputError, in one line, for values that are no such condition."""

    @abstractmethod
    def single(self, value: Tensor) -> bool:
        """Return whether `value` is one condition, without the dimension of data."""

    def forward(self, value: Tensor) -> Tensor:
        """Return the centred features of conditions, shape (batch, features)."""
        if not is_traced():  # the eager step before a traced one has looked, and so has the start from the data
            self.check(value)
        return (self.raw(value) - self.centre) * self.factor

    def of(self, n: int, value: Any) -> Tensor:
        """Return the conditions of `n` data, given as one for all or one for each.

        Raises:
            InputError: if there are neither 1 nor n.
        """
        tensor = torch.as_tensor(value, device=self.centre.device)
        tensor = tensor.to(self.centre.dtype) if tensor.is_floating_point() else tensor
        tensor = tensor.unsqueeze(0) if self.single(tensor) else tensor
        self.check(tensor)
        if len(tensor) not in (1, n):
            raise InputError(f"{n} data need one {self.field} for all, or {n} of them; got {len(tensor)}.")
        return tensor.expand(n, *tensor.shape[1:])

    @torch.no_grad()
    def initialise_from(self, value: Tensor) -> None:
        """Take mean and deviation from the training data.

        Raises:
            InputError: for values that are no such condition.
        """
        self.check(value)
        x = self.raw(value).double()
        constant = x.amax(0) == x.amin(0)
        deviation = x.std(0, correction=0)
        if not self.apart:
            deviation = deviation.square().sum().div((~constant).sum().clamp_min(1)).sqrt().expand_as(deviation)
        self.centre.copy_(x.mean(0))
        self.factor.copy_(torch.where(constant, torch.zeros_like(deviation), 1 / deviation))


class Labels(Condition):
    """A class label y, as a one-hot vector.

    Args:
        classes: number of classes; labels are 0 to classes - 1.

    Raises:
        InputError: if that is no positive number.
    """

    def __init__(self, classes: int) -> None:
        super().__init__("y", require_whole(classes, "classes"))

    def raw(self, value: Tensor) -> Tensor:
        return (value.unsqueeze(-1) == torch.arange(self.features, device=value.device)).to(self.centre.dtype)

    def check(self, value: Tensor) -> None:
        if value.dim() != 1 or value.is_floating_point():
            raise InputError(
                f"y needs one whole number for each datum; got {value.dtype} of shape {tuple(value.shape)}."
            )
        if bool(outside_classes(value, self.features).any()):
            hint = " A conditional VAE needs the label of every datum: hide none." if bool((value == -1).any()) else ""
            raise InputError(
                f"y needs labels from 0 to {self.features - 1} (classes={self.features}); got values from "
                f"{int(value.min())} to {int(value.max())}.{hint}"
            )

    def single(self, value: Tensor) -> bool:
        return value.dim() == 0


class Vectors(Condition):
    """A continuous condition c of any shape; each of its numbers is scaled by its own deviation.

    Args:
        shape: of one c.

    Raises:
        InputError: if it has a size that is not positive.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        sizes = require_sizes(shape, "condition_shape", advice="It is the shape of one c.")
        self.shape = sizes
        super().__init__("c", math.prod(sizes), apart=True)

    def raw(self, value: Tensor) -> Tensor:
        return value.reshape(len(value), self.features).to(self.centre.dtype)

    def check(self, value: Tensor) -> None:
        if tuple(value.shape[1:]) != self.shape:
            wanted, got = ", ".join(map(str, ("data", *self.shape))), tuple(value.shape)
            raise InputError(f"c needs the shape ({wanted}), as in training; got {got}.")

    def single(self, value: Tensor) -> bool:
        return tuple(value.shape) == self.shape


class Quadrants(Condition):
    """The observed quadrants of the picture x itself: lower left, then upper left, then upper right.

    Args:
        data_shape: (height, width) or (channels, height, width); odd sizes have the middle row and column in the
            lower and right quadrants.
        observed: how many quadrants are given, 1 to 3.

    Raises:
        InputError: for another number, or data that are no pictures of at least 2 by 2.
    """

    missing: Tensor
    places: Tensor

    def __init__(self, data_shape: tuple[int, ...], observed: int) -> None:
        observed = require_whole(observed, "observed", most=3, advice="It is the number of observed quadrants.")
        if len(data_shape) not in (2, 3) or min(data_shape[-2:]) < 2:
            raise InputError(
                f"condition='quadrants' needs pictures, (height, width) or (channels, height, width); got {data_shape}."
            )
        given = torch.zeros(data_shape, dtype=torch.bool)
        top, left = data_shape[-2] // 2, data_shape[-1] // 2
        for rows, columns in (
            (slice(top, None), slice(left)),
            (slice(top), slice(left)),
            (slice(top), slice(left, None)),
        )[:observed]:
            given[..., rows, columns] = True
        super().__init__("x", int(given.sum()))
        self.data_shape = data_shape
        self.register_buffer("missing", ~given, persistent=False)
        self.register_buffer("places", given.flatten().nonzero().squeeze(1), persistent=False)

    def raw(self, value: Tensor) -> Tensor:
        return value.reshape(len(value), -1).index_select(1, self.places).to(self.centre.dtype)

    def check(self, value: Tensor) -> None:
        if math.prod(value.shape[1:]) != math.prod(self.data_shape):
            raise InputError(f"x needs pictures of shape {self.data_shape}; got {tuple(value.shape[1:])}.")

    def single(self, value: Tensor) -> bool:
        return tuple(value.shape) in (self.data_shape, (math.prod(self.data_shape),))
