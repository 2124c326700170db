"""`LatentUse`: whether the model's data depend on its latents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from pvae.evaluate.base import Estimate
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.evaluate.finding import EvaluationFinding
from pvae.evaluate.latent_units import LatentUnits
from pvae.evaluate.simulated_pairs import SimulatedPairs
from pvae.programs.sites import sample_sites
from pvae.weights.log_probs import PlateDims, log_probs_by_site, sum_tensors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LEAST_DEPENDENCE", "LatentUse", "dependence_on_latents", "latent_use"]

LEAST_DEPENDENCE = 0.01
"""A dependence of x on z below this number of nats per datum counts as none."""


@dataclass(frozen=True)
class LatentUse(EvaluationFinding):
    """How much x depends on z in the model: E[log p(x given z)] at its own z minus its value at another datum's z.

    The value is KL(p(x, z) to p(x) p(z)) plus KL in the other direction. It is 0 exactly if the decoder ignores z, and
    it does not depend on the guide.

    Attributes:
        active: the number of units that are active in the guide, on the data; None if it is not known.
        units: the number of units of all continuous sites; None if it is not known.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> findings = pvae.evaluate.all(model, x, budget=30000, progress=False)
        >>> use = findings["Are the latents used?"].findings[0]
        >>> use.status, use.units
        ('fine', 2)
    """

    question: ClassVar[str] = "Are the latents used?"
    name: ClassVar[str] = "latents"

    active: int | None = field(default=None, kw_only=True)
    units: int | None = field(default=None, kw_only=True)

    def details(self) -> dict[str, Any]:
        """Return the numbers of active units and of all units."""
        return {"active_units": self.active, "units": self.units}

    def more_rows(self) -> list[dict[str, str]]:
        """Return a row for the active units."""
        if self.units is None:
            return []
        return [{"quantity": "active units of the guide", "value": f"{self.active} of {self.units}", "note": ""}]

    def draw(self) -> Figure:
        """Return the distribution of the dependence over simulated data."""
        from pvae.plots.trust_plots import value_histogram

        values = torch.zeros(0) if self.pointwise is None else self.pointwise
        return value_histogram(values, "log p(x given its z) - log p(x given another z), nats", self.question)


def latent_use(pointwise: Tensor, latents: Mapping[str, LatentUnits] | None) -> LatentUse:
    """Return the finding about the use of the latents.

    Args:
        pointwise: the dependence of simulated data, shape (simulations,), from `dependence_on_latents`.
        latents: the units of each site of the guide on real data; None if they are not known.
    """
    finite = pointwise[pointwise.isfinite()]
    # One impossible pair shows that x depends on z.
    estimate = Estimate.mean_of(pointwise if len(finite) == len(pointwise) else pointwise.nan_to_num(posinf=1e6))
    activities = [units.activity for units in (latents or {}).values() if units.activity is not None]
    units = sum(len(activity) for activity in activities) if activities else None
    active = sum(entry.active or 0 for entry in (latents or {}).values()) if activities else None
    is_used = estimate.value > max(LEAST_DEPENDENCE, 2.0 * estimate.error)
    status = "fine" if is_used else "bad"
    counted = "" if units is None else f" On the data, {active} of {units} units of the guide are active."
    reason = (
        f"x depends on z: a datum is {estimate} nats more probable at its own z than at the z of another one.{counted}"
        if is_used
        else f"The decoder ignores z: a datum is {estimate} nats more probable at its own z than at the z of another "
        f"one, which is not above {LEAST_DEPENDENCE:g} nats and two standard errors.{counted}"
    )
    return LatentUse(
        estimate.value, estimate.error, estimate.count, status, reason, 0, pointwise=estimate.pointwise,
        limit=f"above {LEAST_DEPENDENCE:g} nats and two standard errors",
        source="Burda et al., arXiv:1509.00519, section 5 (active units)", active=active, units=units,
    )  # fmt: skip


def dependence_on_latents(context: EvaluationContext, pairs: SimulatedPairs) -> Tensor:
    """Return log p(x given z) of each pair minus its value at the z of the next pair, shape (batch,), nats.

    Args:
        context: the model.
        pairs: at least two pairs of z and x, drawn from the model.
    """
    programs = context.bound_to(pairs.batch)
    data_dim = context.data_dim(programs)
    rolled = {}
    for site in sample_sites(pairs.trace):
        if site["name"] in pairs.latents:
            rolled[site["name"]] = site["value"].roll(1, data_dim - site["fn"].event_dim)
    sites = sample_sites(programs.trace_model(values=rolled))
    tables = log_probs_by_site([sites], PlateDims(programs.layout.nesting, data_dim, 1))
    observed = [table for name, table in tables.items() if name not in rolled]
    size = pairs.batch.size
    other = sum_tensors(observed).detach().expand(1, size)[0].to("cpu", torch.float64)
    difference = pairs.log_likelihood - other
    return difference.nan_to_num(nan=0.0, posinf=math.inf)
