"""The optional attributes and methods of a density that is part of a model, in one record with defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

__all__ = ["DensityTraits", "density_traits_of"]


@dataclass(frozen=True)
class DensityTraits:
    """The optional attributes and methods of a prior or a likelihood, each with its default.

    A density needs a ``forward`` that returns a distribution; everything here is optional. A user's module has a
    trait if it has an attribute or a method of the same name.

    Attributes:
        takes_posterior: whether a prior is made of posteriors, like the VampPrior. Its ``forward`` then gets the
            function from x to q(z given x).
        takes_condition: whether a prior depends on the condition c. Its ``forward`` then gets the features of c, shape
            (batch, features).
        data_shape: the shape of the events of a likelihood. None if they have the shape of the data.
        set_bias: a method that sets a likelihood's output bias to a number or a tensor. None if there is no bias.
        initialise_from: a method that initialises a density from the training data x, shape (data, ...). None if
            nothing depends on the data.
    """

    takes_posterior: bool = False
    takes_condition: bool = False
    data_shape: Sequence[int] | None = None
    set_bias: Callable[[float | Tensor], None] | None = None
    initialise_from: Callable[[Tensor], None] | None = None


def density_traits_of(density: nn.Module) -> DensityTraits:
    """Return the traits of a density, with the defaults of `DensityTraits` for missing ones."""
    traits: dict[str, Any] = {
        trait.name: getattr(density, trait.name, trait.default) for trait in dataclasses.fields(DensityTraits)
    }
    return DensityTraits(**traits)
