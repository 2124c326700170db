"""`FreeBits`: the ELBO without a penalty for a KL divergence below a threshold."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.objectives.kl.batch_kl import BatchKLObjective, batch_mean
from pvae.objectives.kl.weighted_kl import not_negative
from pvae.objectives.named import named
from pvae.objectives.weights_objective import WeightsOptions
from pvae.weights import LogWeights

__all__ = ["FreeBits"]


@named("free-bits", "ELBO without a penalty for a mean KL of a batch below a threshold; biased in small batches")
class FreeBits(BatchKLObjective):
    """Counts no KL below a threshold: E log p(x given z) - sum over groups of max(nats, KL of the group).

    The KL of a group is its mean over the batch and the particles. The closed form is used if the guide's and the
    prior's densities of a site factorise over units, have a closed-form KL, and depend on nothing that the guide draws
    later. Otherwise the KL is estimated from the draws: unit by unit if both densities factorise, else for the whole
    site.

    The gradient is biased where noise in the KL of a group crosses the threshold: the maximum penalises batches above
    it, and batches below it do not compensate for this. There is noise if the KL is estimated from draws, and if a
    batch does not hold all data. For a Student guide with 0.14 nats per unit under a threshold of 0.25, the exact
    gradient is 0, and the mean gradient per datum was 0.98 in batches of 4, 0.45 in batches of 16 and 0.11 in batches
    of 64 (with 8 particles: 0.23, 0.04 and 0.00).

    Args:
        nats: the threshold of a group. The paper uses 0.125 to 2.
        by: ``"unit"`` (each latent unit is a group), ``"site"``, or a number of equal groups of the units of a site.
        particles: draws of z per datum.
        options: see `WeightsOptions`.

    Raises:
        InputError: for a negative threshold or an unknown grouping; in use, if the units do not divide into equal
            groups, or a guide site is not reparameterised.

    Source: Kingma et al., Inverse Autoregressive Flow, arXiv:1606.04934, equation 15.

    Example:
        >>> import pvae, torch
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4).repeat(10, 1)
        >>> run = pvae.fit(model, x, objective=pvae.FreeBits(0.25), epochs=1, step="eager", progress=False)
        >>> run.history[-1]["loss"] > 0
        True
    """

    def __init__(
        self, nats: float = 0.25, by: str | int = "unit", particles: int = 1, **options: Unpack[WeightsOptions]
    ) -> None:
        super().__init__(particles, **options)
        self.nats = not_negative("nats", nats)
        advice = "It is the number of groups per site; 'unit' or 'site' are also accepted."
        self.by = by if by in ("unit", "site") else require_whole(by, "by", advice=advice)

    def settings(self) -> dict[str, Any]:
        """Return the threshold, the grouping and the number of particles."""
        return {"nats": self.nats, "by": self.by, **super().settings()}

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the bound, shape (batch,), in nats; the penalty is the same for every datum."""
        by_site = self.kl_by_unit(weights)
        by_group = [self._kl_by_group(name, kl.mean(0)) for name, kl in by_site.items()]
        penalties = [batch_mean(kl.T, weights).clamp_min(self.nats).sum() for kl in by_group]
        log_likelihood = weights.log_likelihood().mean(0)
        return log_likelihood - torch.stack(penalties).sum() if penalties else log_likelihood

    def _kl_by_group(self, name: str, kl: Tensor) -> Tensor:
        """Return the KL of each group of units of a site, shape (batch, groups).

        Args:
            name: the site, for the error.
            kl: the KL of each unit, shape (batch, units).
        """
        if self.by == "unit":
            return kl
        groups = 1 if self.by == "site" else int(self.by)
        if kl.shape[1] % groups:
            raise InputError(
                f"FreeBits needs equal groups of units; the {kl.shape[1]} units of site {name!r} do not make {groups} "
                "equal groups. Use by='unit', or a divisor of the number of units."
            )
        return kl.unflatten(1, (groups, -1)).sum(-1)
