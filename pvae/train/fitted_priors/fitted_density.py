"""`FittedDensity`: a density that was fitted to codes; `FitSettings`: the settings of a fit by gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from pvae.checks import require_positive, require_whole
from pvae.fit_options import PriorFitOptions

__all__ = ["FitSettings", "FittedDensity"]


@dataclass(frozen=True)
class FitSettings(PriorFitOptions):
    """The checked options of a fit of a density."""

    def __post_init__(self) -> None:
        """Raise InputError for a value that cannot be used."""
        require_whole(self.epochs, "epochs")
        require_whole(self.batch_size, "batch_size")
        require_positive(self.learning_rate, "learning_rate")
        require_whole(self.seed, "seed", least=0)


@dataclass(frozen=True)
class FittedDensity:
    """A density that was fitted to codes.

    Attributes:
        density: the density, a module that returns a distribution.
        settings: the arguments by which a `PriorRecipe` builds it again, besides its size.
        facts: the results of the fit, as values of TOML.
    """

    density: nn.Module
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
