"""`ScoreOnlyObjective`: objectives with a surrogate at fixed draws, which is valid for every guide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from pvae.errors import InputError
from pvae.objectives.base import Terms
from pvae.objectives.weights_objective import WeightsObjective, WeightsOptions, scaled_terms
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import Site
from pvae.weights.compute import weights_of
from pvae.weights.handlers import sum_marked

__all__ = ["ScoreOnlyObjective"]


def _detach_draw(site: Site) -> str:
    """Return the strategy of a site: the draw is detached, and a site marked for enumeration is summed out."""
    return sum_marked(site, "score")


class ScoreOnlyObjective(WeightsObjective):
    """An objective at detached draws of z: the gradient of ``weights.log_guide`` is only the score.

    A subclass implements `surrogate` with all parts of the gradient; no term is added for any site.
    """

    pathwise = False

    def __init__(self, particles: int = 1, **options: Unpack[WeightsOptions]) -> None:
        super().__init__(particles, **options)
        unused = " and ".join(name for name in ("gradients", "auxiliary") if options.get(name))
        if unused:
            raise InputError(
                f"{type(self).__name__} has a gradient of its own for every site; got {unused}. Leave out {unused}."
            )

    def terms(self, model: Any, guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], player: str) -> Terms:
        """Return the loss of a batch: minus the sum over data of the bound, each times its scale."""
        programs = BoundPrograms(model, guide, args, kwargs)
        weights = weights_of(programs, self.num_particles, data_plate=self.data_plate, choose=_detach_draw)
        if weights.beneath:
            raise InputError(
                f"{type(self).__name__} needs a gradient for every site; site {weights.beneath[0]!r} depends on a "
                "summed-out site of the guide, so it has none. Remove the mark for enumeration of that site, or use "
                "'iwae'."
            )
        surrogate = self.surrogate(weights)
        return scaled_terms(weights, self.bound(weights), surrogate, self.recorded(weights))
