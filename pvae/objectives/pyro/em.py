"""`EM`: the exact evidence, with discrete latents summed out; `pvae.compare` maximises it by EM."""

from __future__ import annotations

from typing import Any

from pyro.infer import TraceEnum_ELBO

from pvae.objectives.named import named
from pvae.objectives.pyro.pyro_losses import PyroObjective

__all__ = ["EM"]


@named("em", "EM: `compare` uses the closed-form M-step (gmm); `fit` replaces it by gradient steps")
class EM(PyroObjective):
    """The exact evidence, for models that have an M-step in closed form.

    `pvae.compare` fits a Gaussian mixture (``gmm``) by EM itself, from the same initial parameters as the other
    objectives, and adds it to the same table. In `pvae.fit` and in SVI a gradient step replaces the M-step. This is
    generalised EM, which maximises the same function.

    Source: Dempster, Laird & Rubin, Maximum likelihood from incomplete data via the EM algorithm, JRSS B 39, 1977.
    """

    def __init__(self) -> None:
        super().__init__(TraceEnum_ELBO(num_particles=1))

    def settings(self) -> dict[str, Any]:
        """Return no settings, because there are none."""
        return {}
