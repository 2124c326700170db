"""The use of each latent unit: its KL term, and how much its posterior mean changes with x."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pvae.batch import Batch
from pvae.evaluate.base import Estimate
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.json_values import json_value
from pvae.programs.own_densities import with_own_densities
from pvae.programs.site_masks import is_masked, mask_of_site
from pvae.programs.sites import Site, base_distribution, is_discrete, sample_sites
from pvae.weights.kl import ANALYTIC_WHOLE, SAMPLED, WHOLE, kl_of_site, prior_is_fixed

__all__ = ["ACTIVE", "LatentUnits", "latent_units"]

ACTIVE = 0.01
"""A unit is active if Var_x(E_q[z_u]) is above this number (Burda et al. 2015, section 5)."""


@dataclass(frozen=True)
class LatentUnits:
    """The units of one latent site, flattened in the order of its plates and event dimensions.

    Args:
        kl: the KL(q to p) of the site, summed over units, nats per datum; None for a point mass.
        kl_per_unit: the same for each unit, mean over data, shape (units,), in nats; shape (1,) if `how` is
            ``"whole"`` or ``"analytic-whole"``, None for a point mass.
        how: how KL is computed: in closed form, ``"analytic"`` (unit by unit) or ``"analytic-whole"`` (for all units
            together); from the draws, ``"sampled"`` (unit by unit) or ``"whole"`` (for all units together); or
            ``"point"`` for a point mass, which has no KL.
        activity: Var_x(E_q[z_u]), shape (units,); None for a discrete site, and for a single datum.
        threshold: a unit counts as active if its activity is above this number.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> units = pvae.evaluate.diagnose(model, x, particles=100).latents["z"]
        >>> units.how, units.kl_per_unit.shape
        ('analytic', torch.Size([2]))
    """

    kl: Estimate | None
    kl_per_unit: Tensor | None
    how: str
    activity: Tensor | None
    threshold: float = ACTIVE

    @property
    def active(self) -> int | None:
        """The number of active units, or None if activity is not defined."""
        return None if self.activity is None else int((self.activity > self.threshold).sum())

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as a dictionary that JSON can hold."""
        return {
            "kl": None if self.kl is None else self.kl.to_json(),
            "kl_per_unit": _to_list(self.kl_per_unit),
            "how": self.how,
            "activity": _to_list(self.activity),
            "active": self.active,
        }


def _to_list(values: Tensor | None) -> list[float | None] | None:
    """Return the numbers of a tensor for JSON; a number that is not finite becomes None."""
    return None if values is None else json_value(values)


def latent_units(
    context: EvaluationContext, draws: int, chunk: int, threshold: float
) -> tuple[dict[str, LatentUnits], tuple[str, ...]]:
    """Return the units of every latent site that model and guide share, and a note on each number that is left out.

    Args:
        context: the model and the data.
        draws: the number of draws of z per datum. One draw is enough if no site depends on another, because KL and
            posterior mean are then analytic. If a site depends on another one, its numbers are means over draws of the
            other one.
        chunk: the largest number of data at once.
        threshold: a unit counts as active if its activity is above this number.
    """
    chunks_by_site: dict[str, list[_SiteUnits]] = {}
    for batch in context.chunks(chunk):
        for name, site_units in _units_of_batch(context, batch, draws).items():
            chunks_by_site.setdefault(name, []).append(site_units)
    units = {name: _summary(chunks, threshold) for name, chunks in chunks_by_site.items()}
    left_out = [name for name in context.bound_to(batch).layout.bijection.points if name not in units]
    notes = [f"site {name!r} is a function of auxiliary draws, so its units have no separate KL" for name in left_out]
    return units, (*notes, *_notes(units, context.batch.size))


@dataclass(frozen=True)
class _SiteUnits:
    """The units of one site on some data.

    Attributes:
        how: as in `LatentUnits`.
        discrete: whether the support is discrete.
        kl: the KL terms, shape (batch, units), nats.
        mean: the posterior means, shape (batch, units); NaN where a mask leaves an entry out.
        mean_variance: the variance of the estimates in `mean`, shape (batch, units). It is not 0 if the mean is
            estimated from several draws of another site.
    """

    how: str
    discrete: bool
    kl: Tensor
    mean: Tensor
    mean_variance: Tensor


def _summary(chunks: list[_SiteUnits], threshold: float) -> LatentUnits:
    """Return the units of one site from its chunks of data."""
    how, discrete = chunks[0].how, chunks[0].discrete
    kl = torch.cat([units.kl for units in chunks])
    mean = torch.cat([units.mean for units in chunks])
    mean_variance = torch.cat([units.mean_variance for units in chunks])
    activity = None
    if len(mean) > 1 and not discrete:
        # Without the subtraction, unused units of a site that depends on another one would appear active.
        activity = (_variance(mean) - mean_variance.nanmean(0)).clamp_min(0.0)
    return LatentUnits(
        kl=None if how == "point" else Estimate.mean_of(kl.sum(1)),
        kl_per_unit=None if how == "point" else kl.mean(0),
        how=how,
        activity=activity,
        threshold=threshold,
    )


def _variance(means: Tensor) -> Tensor:
    """Return the variance over the data in which an entry counts, shape (units,); 0 if there are fewer than two.

    Args:
        means: shape (data, units), NaN where an entry does not count.
    """
    missing = means.isnan()
    if not bool(missing.any()):
        return means.var(0, correction=1)
    squares = (means - means.nanmean(0)).square().nansum(0)
    return squares / (~missing).sum(0).sub(1).clamp_min(1)


def _notes(units_by_site: dict[str, LatentUnits], count: int) -> Iterator[str]:
    """Yield a note on each number that is missing or estimated from draws; `count` is the number of data."""
    for name, units in units_by_site.items():
        if units.kl is None:
            yield f"site {name!r} is a point mass in the guide: it has no KL"
        if units.how in (SAMPLED, WHOLE):
            yield f"site {name!r} has no closed-form KL here: it is estimated from the draws"
        if units.activity is None and count > 1:
            yield f"site {name!r} is discrete: its units are not counted as active or not"
    if count == 1:
        yield "active units need more than one datum"


def _units_of_batch(context: EvaluationContext, batch: Batch, draws: int) -> dict[str, _SiteUnits]:
    """Return the units of each shared latent site on one batch, averaged over draws of z."""
    programs = context.bound_to(batch)
    data_dim = context.data_dim(programs)
    draws_by_site: dict[str, list[_SiteUnits]] = {}
    for _ in range(draws):
        guide_trace, model_trace = programs.trace_both()
        guide_sites = with_own_densities(guide_trace, model_trace, programs.layout.bijection)
        model_sites = _latent_sites(model_trace)
        for name in [name for name in guide_sites if name in model_sites]:
            is_fixed = prior_is_fixed(name, list(guide_sites), list(model_sites))
            units = _units_of_site(guide_sites[name], model_sites[name], data_dim, is_fixed)
            draws_by_site.setdefault(name, []).append(units)
    return {name: _mean_over_draws(units) for name, units in draws_by_site.items()}


def _latent_sites(trace: poutine.Trace) -> dict[str, Site]:
    """Return the latent sites of a trace by name, in order."""
    return {site["name"]: site for site in sample_sites(trace) if not site["is_observed"]}


def _mean_over_draws(draws: list[_SiteUnits]) -> _SiteUnits:
    """Return the mean over draws of z, with the variance of the mean of the posterior means."""
    kl = torch.stack([units.kl for units in draws]).mean(0)
    means = torch.stack([units.mean for units in draws])
    mean_variance = means.var(0, correction=1) / len(draws) if len(draws) > 1 else torch.zeros_like(means[0])
    return _SiteUnits(draws[0].how, draws[0].discrete, kl, means.mean(0), mean_variance)


def _units_of_site(guide_site: Site, model_site: Site, data_dim: int, is_fixed: bool) -> _SiteUnits:
    """Return the units of one site for one draw of z.

    Args:
        guide_site: the site in the guide's trace.
        model_site: the site in the model's trace.
        data_dim: the dimension of the plate over data in the site's batch shape, counted from the right.
        is_fixed: whether the prior does not depend on the site itself; see `pvae.weights.kl.prior_is_fixed`.
    """
    how, kl = _kl(guide_site, model_site, is_fixed)
    value_dim = data_dim - guide_site["fn"].event_dim
    mean = _by_datum(_mean(guide_site), value_dim)
    if is_masked(guide_site):
        counts = mask_of_site(guide_site).expand(guide_site["value"].shape)
        mean = torch.where(_by_datum(counts, value_dim) > 0, mean, torch.nan)
    kl = _by_datum(kl, data_dim if how in (ANALYTIC_WHOLE, WHOLE) else value_dim)
    return _SiteUnits(how, is_discrete(guide_site), kl, mean, torch.zeros_like(mean))


def _by_datum(values: Tensor, data_dim: int) -> Tensor:
    """Move the dimension of the data to the front and flatten the rest: shape (batch, units), float64 on the CPU."""
    return values.movedim(data_dim, 0).reshape(values.shape[data_dim], -1).to("cpu", torch.float64)


def _kl(guide_site: Site, model_site: Site, is_fixed: bool) -> tuple[str, Tensor]:
    """Return how KL is computed, and the KL terms: in the shape of the value, or of the batch for a whole site.

    Args:
        guide_site: the site in the guide's trace.
        model_site: the site in the model's trace.
        is_fixed: whether the closed form is right; see `pvae.weights.kl.prior_is_fixed`.
    """
    if isinstance(base_distribution(guide_site["fn"]), dist.Delta):
        return "point", torch.zeros_like(guide_site["value"])
    kl = kl_of_site(guide_site, model_site, is_fixed)
    return kl.how, kl.terms


def _mean(site: Site) -> Tensor:
    """Return the mean of a site's distribution in the shape of its value; the draw if there is no finite mean."""
    try:
        mean = site["fn"].mean
    except NotImplementedError:
        return site["value"]
    return mean.expand(site["value"].shape) if bool(mean.isfinite().all()) else site["value"]
