"""One run of both programs, and everything that the linter's checks ask about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pvae.objectives.base import Objective
from pvae.objectives.pyro.pyro_losses import PyroObjective
from pvae.programs.binding import Fields, Programs
from pvae.programs.layout import Site

__all__ = ["Look"]


@dataclass(frozen=True)
class Look:
    """One run of both programs, and everything that the single checks ask about."""

    latent_model: Any
    batch: Mapping[str, Tensor]
    objective: Objective  # what is climbed
    trained: Objective  # whose players take turns
    fields: Fields
    programs: Programs
    guide: list[Site]
    model: list[Site]

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return self.programs.arguments(self.batch)

    @property
    def pyro_loss(self) -> Any:
        return self.objective.elbo if isinstance(self.objective, PyroObjective) else None

    def latent(self, sites: list[Site]) -> dict[str, Site]:
        return {site["name"]: site for site in sites if not site["is_observed"]}
