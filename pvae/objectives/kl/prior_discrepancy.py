"""The maximum mean discrepancy between the aggregate posterior of a batch and the prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.objectives.kl.kl_by_unit import LatentSite, only_latent_site
from pvae.objectives.kl.mean_discrepancy import Scales, mmd, require_kernel
from pvae.weights import LogWeights

__all__ = ["PriorDiscrepancy"]


@dataclass(frozen=True)
class PriorDiscrepancy:
    """The squared maximum mean discrepancy (MMD^2) between codes of a batch and equally many draws of the prior.

    Attributes:
        objective: the name of the objective, for errors.
        kernel: a name of `pvae.objectives.kl.mean_discrepancy.KERNELS`.
        scale: the width of the kernel, or several widths of kernels that are added.

    Raises:
        InputError: for an unknown kernel, or a scale that is not a positive number.
    """

    objective: str
    kernel: str
    scale: Scales

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", require_kernel(self.objective, self.kernel, self.scale))

    def settings(self) -> dict[str, Any]:
        """Return the kernel and its widths, with commas between them."""
        one_or_more = (self.scale,) if isinstance(self.scale, float) else self.scale
        scale = self.scale if isinstance(self.scale, float) else ",".join(map(str, one_or_more))
        return {"kernel": self.kernel, "scale": scale}

    def __call__(self, weights: LogWeights, data_plate: str | None) -> Tensor:
        """Return the mean of MMD^2 over particles, shape ().

        Each particle is a separate batch, because several draws of one datum are not independent draws of the aggregate
        posterior. A datum is weighted by its scale.

        Args:
            weights: the weights of the batch.
            data_plate: the name of the plate over data, if several plates hold every site.

        Raises:
            InputError: for a batch of one datum, for several latent sites, and for a prior that cannot be drawn from.
        """
        runs = only_latent_site(weights, data_plate, self.objective)
        has_scales = isinstance(weights.scale, Tensor) and weights.scale.dim() > 0
        return torch.cat([self._by_particle(latent, weights.scale if has_scales else None) for latent in runs]).mean()

    def _by_particle(self, latent: LatentSite, scales: Any) -> Tensor:
        """Return MMD^2 of each particle of one run, shape (particles,)."""
        prior = latent.model["fn"]
        prior_draws = prior.rsample() if prior.has_rsample else prior.sample()
        ours = latent.by_unit(latent.guide["value"], prior.event_dim)
        theirs = latent.by_unit(prior_draws, prior.event_dim)
        if ours.shape[1] < 2:
            raise InputError(
                f"{self.objective} needs batches of at least 2 data, to compare them with each other; got 1 datum."
            )
        return mmd(ours, theirs.to(ours), self.kernel, self.scale, scales)
