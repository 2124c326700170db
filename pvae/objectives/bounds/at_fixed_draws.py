"""Objectives whose surrogate holds at fixed draws, and is right for every guide, reparameterised or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from pvae.errors import InputError
from pvae.objectives.base import Call, Terms
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions
from pvae.programs.sites import Site, is_marked_for_enumeration
from pvae.weights import trace_weights
from pvae.weights.handlers import SUMMED

__all__ = ["AtFixedDraws"]


def _cut_off(site: Site) -> str:
    return SUMMED if is_marked_for_enumeration(site) else "score"


class AtFixedDraws(WeightsObjective):
    """An objective that sees z as given: ``weights.log_guide`` then differentiates to the score alone.

    Subclasses give `surrogate`, which holds every part of the gradient: nothing is added for any site.
    """

    pathwise = False

    def __init__(self, particles: int = 1, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        chosen = [name for name in ("gradients", "auxiliary") if options.get(name)]
        if chosen:
            raise InputError(
                f"{type(self).__name__} has a gradient of its own for every site: leave out {' and '.join(chosen)}."
            )

    def terms(self, model: Any, guide: Any, args: Call, kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch: minus the sum of the bounds per datum, each times its scale."""
        weights = trace_weights(
            model, guide, args, kwargs, self.num_particles, data_plate=self.data_plate, choose=_cut_off
        )
        if weights.beneath:
            raise InputError(
                f"{type(self).__name__} has no gradient for site {weights.beneath[0]!r}, which depends on a summed-out "
                "site of the guide: take that site's mark for enumeration away, or use 'iwae'."
            )
        surrogate, value = self.surrogate(weights), self.bound(weights)
        named = {name: (each * weights.scale).sum().detach() for name, each in weights.named().items()}
        return Terms(-(value * weights.scale).sum(), -(surrogate * weights.scale).sum(), named)
