"""EM as an objective's name: the exact evidence of a model whose discrete latents are summed out."""

from __future__ import annotations

from typing import Any

from pyro.infer import TraceEnum_ELBO

from pvae.objectives.named import named
from pvae.objectives.pyro.pyro_losses import PyroObjective

__all__ = ["EM"]


@named("em", "EM for models with a closed-form M-step (gmm), by `compare`; elsewhere by gradients")
class EM(PyroObjective):
    """The evidence with an exact E-step; for models whose M-step has a closed form, which `pvae.compare` then takes.

    `pvae.compare` fits a Gaussian mixture (``gmm``) by EM itself, from the start that the other objectives get, and
    puts it in the same table. In `pvae.fit` and in SVI a gradient step takes the place of the M-step, which is
    generalised EM: the same function is climbed.

    Source: Dempster, Laird & Rubin, Maximum likelihood from incomplete data via the EM algorithm, JRSS B 39, 1977.
    """

    def __init__(self) -> None:
        super().__init__(TraceEnum_ELBO(num_particles=1))

    def settings(self) -> dict[str, Any]:
        """Return nothing: there is nothing to set."""
        return {}
