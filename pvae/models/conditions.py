"""The conditions of a conditional VAE: labels, vectors, or quadrants of x, each as centred and scaled features."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pvae.checks import require_sizes, require_whole
from pvae.errors import InputError
from pvae.names import unknown
from pvae.programs.classifier import outside_classes
from pvae.weights.tracing import is_traced

__all__ = ["CONDITIONS", "Condition", "LabelCondition", "QuadrantCondition", "VectorCondition", "make_condition"]

CONDITIONS = ("y", "c", "quadrants")


class Condition(nn.Module, ABC):
    """A field of the batch as features, shape (batch, features), centred and scaled by the training data.

    A feature that is constant in the training data becomes exactly 0 for all data, because the model cannot learn its
    effect.

    Args:
        field: the field of the batch that holds the condition.
        features: the number of features.
        scale_each: whether each feature is divided by its own standard deviation. Otherwise all features have the same
            unit, and are divided by one common standard deviation.
    """

    centre: Tensor
    factor: Tensor

    def __init__(self, field: str, features: int, *, scale_each: bool = False) -> None:
        super().__init__()
        self.field, self.features, self.scale_each = field, features, scale_each
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("factor", torch.ones(features))

    @abstractmethod
    def raw_features(self, value: Tensor) -> Tensor:
        """Return the features before centring, shape (batch, features)."""

    @abstractmethod
    def check(self, value: Tensor) -> None:
        """Check values of the condition, (data, ...).

        Raises:
            InputError: for values that cannot be this condition.
        """

    @abstractmethod
    def is_single(self, value: Tensor) -> bool:
        """Return whether `value` is one condition without the batch dimension."""

    def forward(self, value: Tensor) -> Tensor:
        """Return the centred and scaled features of conditions, shape (batch, features)."""
        # A traced step cannot read values. The eager step before it and `initialise_from` have checked them.
        if not is_traced():
            self.check(value)
        return (self.raw_features(value) - self.centre) * self.factor

    def expand_to(self, n: int, value: Any) -> Tensor:
        """Return the conditions of `n` data, (n, ...).

        Args:
            n: number of data.
            value: one condition for all data, or one for each.

        Raises:
            InputError: if the number of conditions is neither 1 nor n, or they fail `check`.
        """
        tensor = torch.as_tensor(value, device=self.centre.device)
        tensor = tensor.to(self.centre.dtype) if tensor.is_floating_point() else tensor
        tensor = tensor.unsqueeze(0) if self.is_single(tensor) else tensor
        self.check(tensor)
        if len(tensor) not in (1, n):
            raise InputError(
                f"{n} data need one {self.field} for all, or {n} of them; got {len(tensor)}. Pass one or {n}."
            )
        return tensor.expand(n, *tensor.shape[1:])

    @torch.no_grad()
    def initialise_from(self, value: Tensor) -> None:
        """Set centre and factor from the conditions of the training data, shape (data, ...).

        Raises:
            InputError: for values that cannot be this condition.
        """
        self.check(value)
        features = self.raw_features(value).double()
        is_constant = features.amax(0) == features.amin(0)
        deviation = features.std(0, correction=0)
        if not self.scale_each:
            varying = (~is_constant).sum().clamp_min(1)
            deviation = deviation.square().sum().div(varying).sqrt().expand_as(deviation)
        self.centre.copy_(features.mean(0))
        self.factor.copy_(torch.where(is_constant, torch.zeros_like(deviation), 1 / deviation))


class LabelCondition(Condition):
    """A class label y, as a one-hot vector.

    Args:
        classes: number of classes; labels are 0 to classes - 1.

    Raises:
        InputError: if `classes` is not a positive whole number.
    """

    def __init__(self, classes: int) -> None:
        super().__init__("y", require_whole(classes, "classes"))

    def raw_features(self, value: Tensor) -> Tensor:
        """Return one-hot vectors of labels (batch,), shape (batch, classes)."""
        return (value.unsqueeze(-1) == torch.arange(self.features, device=value.device)).to(self.centre.dtype)

    def check(self, value: Tensor) -> None:
        """Check that `value` holds one label of the classes for each datum, (batch,).

        Raises:
            InputError: for another shape or dtype, or for labels outside the classes.
        """
        if value.dim() != 1 or value.is_floating_point():
            raise InputError(
                f"y needs one whole number for each datum; got {value.dtype} of shape {tuple(value.shape)}. "
                "Convert the labels with y.long(), shape (data,)."
            )
        if bool(outside_classes(value, self.features).any()):
            hint = (
                " A conditional VAE needs the label of every datum. Give all labels."
                if bool((value == -1).any())
                else ""
            )
            raise InputError(
                f"y needs labels from 0 to {self.features - 1} (classes={self.features}); got values from "
                f"{int(value.min())} to {int(value.max())}.{hint}"
            )

    def is_single(self, value: Tensor) -> bool:
        """Return whether `value` is one label, shape ()."""
        return value.dim() == 0


class VectorCondition(Condition):
    """A continuous condition c of any shape; each of its numbers is scaled by its own standard deviation.

    Args:
        shape: shape of one c.

    Raises:
        InputError: if a size is not a positive whole number.
    """

    def __init__(self, shape: int | Sequence[int]) -> None:
        self.shape = require_sizes(shape, "condition_shape", advice="It is the shape of one c.")
        super().__init__("c", math.prod(self.shape), scale_each=True)

    def raw_features(self, value: Tensor) -> Tensor:
        """Return conditions (batch,) + shape as flat vectors, shape (batch, features)."""
        return value.reshape(len(value), self.features).to(self.centre.dtype)

    def check(self, value: Tensor) -> None:
        """Check that the conditions have the same shape as in the training data, (batch,) + shape.

        Raises:
            InputError: for another shape.
        """
        if tuple(value.shape[1:]) != self.shape:
            needed = ", ".join(map(str, ("data", *self.shape)))
            raise InputError(f"c needs the shape ({needed}), as in training; got {tuple(value.shape)}. Reshape c.")

    def is_single(self, value: Tensor) -> bool:
        """Return whether `value` is one condition of the model's shape."""
        return tuple(value.shape) == self.shape


class QuadrantCondition(Condition):
    """The observed quadrants of the image x itself: lower left, then upper left, then upper right.

    Args:
        data_shape: (height, width) or (channels, height, width); for odd sizes the middle row and column belong to the
            lower and right quadrants.
        observed: number of observed quadrants, 1 to 3.

    Raises:
        InputError: for another number, or for data that are not images of at least 2 by 2 pixels.
    """

    missing: Tensor
    observed_indices: Tensor

    def __init__(self, data_shape: tuple[int, ...], observed: int) -> None:
        observed = require_whole(observed, "observed", most=3, advice="It is the number of observed quadrants.")
        if len(data_shape) not in (2, 3) or min(data_shape[-2:]) < 2:
            raise InputError(
                "condition='quadrants' needs pictures, (height, width) or (channels, height, width); got "
                f"{data_shape}. Reshape x, or choose another condition."
            )
        is_observed = _observed_quadrants(data_shape, observed)
        super().__init__("x", int(is_observed.sum()))
        self.data_shape = data_shape
        self.register_buffer("missing", ~is_observed, persistent=False)
        self.register_buffer("observed_indices", is_observed.flatten().nonzero().squeeze(1), persistent=False)

    def raw_features(self, value: Tensor) -> Tensor:
        """Return the observed pixels of images (batch, ...), shape (batch, features)."""
        return value.reshape(len(value), -1).index_select(1, self.observed_indices).to(self.centre.dtype)

    def check(self, value: Tensor) -> None:
        """Check that each image has the same number of pixels as in the training data.

        Raises:
            InputError: for another number of pixels.
        """
        if math.prod(value.shape[1:]) != math.prod(self.data_shape):
            raise InputError(
                f"x needs pictures of shape {self.data_shape}; got {tuple(value.shape[1:])}. Pass whole pictures."
            )

    def is_single(self, value: Tensor) -> bool:
        """Return whether `value` is one image, shaped or flat."""
        return tuple(value.shape) in (self.data_shape, (math.prod(self.data_shape),))


def _observed_quadrants(data_shape: tuple[int, ...], observed: int) -> Tensor:
    """Return True at the pixels of the first `observed` quadrants, shape data_shape."""
    middle_row, middle_column = data_shape[-2] // 2, data_shape[-1] // 2
    upper, lower = slice(middle_row), slice(middle_row, None)
    left, right = slice(middle_column), slice(middle_column, None)
    is_observed = torch.zeros(data_shape, dtype=torch.bool)
    for rows, columns in [(lower, left), (upper, left), (upper, right)][:observed]:
        is_observed[..., rows, columns] = True
    return is_observed


def make_condition(
    name: str | None,
    data_shape: tuple[int, ...],
    *,
    classes: int | None,
    condition_shape: int | Sequence[int] | None,
    observed: int | None,
) -> Condition:
    """Return the condition of a name of `CONDITIONS`; without a name, y if `classes` is known, else c.

    Args:
        name: ``"y"``, ``"c"``, ``"quadrants"`` or None.
        data_shape: shape of one x.
        classes: number of classes of y; None if the data have no labels.
        condition_shape: shape of one c; None if the data have no conditions.
        observed: number of observed quadrants; None for 1.

    Raises:
        InputError: for an unknown name, a condition that the data do not have, or `observed` without quadrants.
    """
    chosen = name or _default_condition(classes, condition_shape)
    if chosen is not None and chosen not in CONDITIONS:
        raise unknown("condition", str(chosen), CONDITIONS)
    if chosen == "quadrants":
        return QuadrantCondition(data_shape, 1 if observed is None else observed)
    made: Condition
    if chosen == "y" and classes is not None:
        made = LabelCondition(classes)
    elif chosen == "c" and condition_shape is not None:
        made = VectorCondition(condition_shape)
    else:
        raise _missing_condition(name, chosen)
    if observed is not None:
        raise InputError(
            f"observed={observed!r} counts quadrants; it needs condition='quadrants', not {chosen!r}. Leave it out."
        )
    return made


def _default_condition(classes: int | None, condition_shape: int | Sequence[int] | None) -> str | None:
    """Return the condition that the data have; labels come before vectors."""
    if classes is not None:
        return "y"
    return None if condition_shape is None else "c"


def _missing_condition(name: str | None, chosen: str | None) -> InputError:
    """Return the error for data that lack the chosen condition, or every condition."""
    lacking = {"y": "y (labels are whole numbers)", "c": "c", None: "y and c (labels are whole numbers)"}
    return InputError(
        "A conditional VAE needs a condition: labels y (classes=10), vectors c (condition_shape=3), or "
        f"condition='quadrants' for pictures; got condition={name!r}, and data without {lacking[chosen]}. Add the "
        "field to the data; for a data set or loader of PyTorch, give classes too, because its labels are not counted."
    )
