"""`CheckContext`: one run of both programs, with the sites that the rules read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pvae.objectives.base import Objective
from pvae.objectives.pyro.loss_function import LossFunction
from pvae.objectives.pyro.pyro_losses import PyroObjective
from pvae.programs.binding import Fields, Programs
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site

__all__ = ["CheckContext"]


@dataclass(frozen=True)
class CheckContext:
    """One run of both programs on a batch, with the objective to be trained.

    Attributes:
        latent_model: any object with ``model`` and ``guide``.
        batch: the batch of the run.
        objective: the objective whose bound is maximised.
        trained: the objective that is trained; it may update theta and phi in turn by `objective`.
        fields: as for `pvae.models.bind`.
        programs: both programs.
        bound: both programs with the arguments of the batch.
        guide_sites: the sample sites of the guide.
        model_sites: the sample sites of the model.
        guide_rows: the indices of each plate of the guide, by the name of the plate.
        model_rows: the indices that the model gives each plate itself; a replay replaces them by the guide's indices.
        data_size: the number of all training data; None if it is not known.
        param_names: the names of the ``pyro.param`` statements that the programs ran.
    """

    latent_model: Any
    batch: Mapping[str, Tensor]
    objective: Objective
    trained: Objective
    fields: Fields
    programs: Programs
    bound: BoundPrograms
    guide_sites: list[Site]
    model_sites: list[Site]
    guide_rows: Mapping[str, Tensor]
    model_rows: Mapping[str, Tensor]
    data_size: int | None = None
    param_names: frozenset[str] = frozenset()

    @property
    def pyro_loss(self) -> Any:
        """The loss of `pyro.infer` or the loss function under the objective; None for an objective of pvae."""
        if isinstance(self.objective, LossFunction):
            return self.objective.function
        return self.objective.elbo if isinstance(self.objective, PyroObjective) else None

    @property
    def guide_latents(self) -> dict[str, Site]:
        """The latent sites of the guide by name."""
        return {site["name"]: site for site in self.guide_sites if not site["is_observed"]}

    @property
    def model_latents(self) -> dict[str, Site]:
        """The latent sites of the model by name."""
        return {site["name"]: site for site in self.model_sites if not site["is_observed"]}

    @property
    def shared_latents(self) -> Iterator[tuple[str, Site, Site]]:
        """The latent sites of both programs: the name, the site of the guide, the site of the model."""
        model = self.model_latents
        for name, site in self.guide_latents.items():
            if name in model and not site["infer"].get("is_auxiliary"):
                yield name, site, model[name]
