"""What each latent unit is used for: its KL term, and how much its posterior mean moves with x."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence

from pvae.batch import Batch
from pvae.evaluate.base import Estimate
from pvae.evaluate.evaluation_context import Setting
from pvae.json_values import json_value

__all__ = ["ACTIVE", "LatentUnits", "latent_units"]

ACTIVE = 0.01
"""A unit is active where Var_x(E_q[z_u]) is above it (Burda et al. 2015, section 5)."""

Site = dict[str, Any]


@dataclass(frozen=True)
class LatentUnits:
    """One latent site's units, flattened in the order of the event.

    Args:
        kl: the site's part of KL(q to p), summed over units, nats per datum; None for a point mass.
        kl_per_unit: the same unit by unit, mean over data, shape (units,); of one entry where `how` is whole.
        how: KL is ``"analytic"``, ``"sampled"`` (from the draws), ``"whole"`` (sampled, no sum over units) or
            not there (``"point"``: a point mass).
        activity: Var_x(E_q[z_u]), shape (units,); None for a discrete site and for a single datum.
        threshold: the activity above which a unit counts as active.
    """

    kl: Estimate | None
    kl_per_unit: Tensor | None
    how: str
    activity: Tensor | None
    threshold: float = ACTIVE

    @property
    def active(self) -> int | None:
        """Number of active units, or None where activity is not defined."""
        return None if self.activity is None else int((self.activity > self.threshold).sum())

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as a dictionary that JSON can hold."""
        return {
            "kl": None if self.kl is None else self.kl.to_json(),
            "kl_per_unit": _list(self.kl_per_unit),
            "how": self.how,
            "activity": _list(self.activity),
            "active": self.active,
        }


def _list(values: Tensor | None) -> list[float | None] | None:
    return None if values is None else json_value(values)


def latent_units(
    setting: Setting, draws: int, chunk: int, threshold: float = ACTIVE
) -> tuple[dict[str, LatentUnits], tuple[str, ...]]:
    """Return the units of every latent site that model and guide share, and a line on each thing left out.

    Args:
        setting: the model and the data.
        draws: draws of z per datum. One suffices where no site depends on another: KL and posterior mean are
            then analytic. A deeper site's are averages over the draws of what it depends on.
        chunk: greatest number of data at once.
        threshold: the activity above which a unit counts as active.
    """
    found: dict[str, list[_Part]] = {}
    for batch in setting.slices(chunk):
        for name, part in _of_batch(setting, batch, draws).items():
            found.setdefault(name, []).append(part)
    units = {name: _summary(parts, threshold) for name, parts in found.items()}
    return units, tuple(_notes(units, setting.batch.size))


@dataclass(frozen=True)
class _Part:
    """A site on some data, each tensor (batch, units): KL terms, posterior means, and the variance of these.

    The last is not 0 where the mean at a deeper site is an average over draws of the site before it.
    """

    how: str
    discrete: bool
    kl: Tensor
    mean: Tensor
    noise: Tensor


def _summary(parts: list[_Part], threshold: float) -> LatentUnits:
    how, discrete = parts[0].how, parts[0].discrete
    kl, mean, noise = (torch.cat([getattr(part, name) for part in parts]) for name in ("kl", "mean", "noise"))
    # without the noise taken off, a deeper layer's dead units look active
    activity = (mean.var(0, correction=1) - noise.mean(0)).clamp_min(0.0) if len(mean) > 1 else None
    return LatentUnits(
        kl=None if how == "point" else Estimate.mean_of(kl.sum(1)),
        kl_per_unit=None if how == "point" else kl.mean(0),
        how=how,
        activity=None if discrete else activity,
        threshold=threshold,
    )


def _notes(units: dict[str, LatentUnits], count: int) -> Iterator[str]:
    for name, each in units.items():
        if each.kl is None:
            yield f"site {name!r} is a point mass in the guide: it has no KL"
        if each.how in ("sampled", "whole"):
            yield f"site {name!r} has no closed-form KL here: it is estimated from the draws"
        if each.activity is None and count > 1:
            yield f"site {name!r} is discrete: its units are not counted as active or not"
    if count == 1:
        yield "active units need more than one datum"


def _of_batch(setting: Setting, batch: Batch, draws: int) -> dict[str, _Part]:
    dim = setting.data_dim(batch)
    found: dict[str, list[_Part]] = {}
    for _ in range(draws):
        guide, model = setting.traces(batch)
        ours, theirs = _latents(guide), _latents(model)
        for name in [each for each in ours if each in theirs]:
            drawn_before = set(itertools.takewhile(name.__ne__, ours))
            closed = drawn_before.issuperset(itertools.takewhile(name.__ne__, theirs))
            found.setdefault(name, []).append(_of_site(ours[name], theirs[name], dim, closed))
    return {name: _over_draws(parts) for name, parts in found.items()}


def _latents(trace: poutine.Trace) -> dict[str, Site]:
    sites: dict[str, Any] = dict(prune_subsample_sites(trace).nodes)
    return {n: site for n, site in sites.items() if site["type"] == "sample" and not site["is_observed"]}


def _over_draws(parts: list[_Part]) -> _Part:
    kl, means = torch.stack([part.kl for part in parts]).mean(0), torch.stack([part.mean for part in parts])
    noise = means.var(0, correction=1) / len(parts) if len(parts) > 1 else torch.zeros_like(means[0])
    return _Part(parts[0].how, parts[0].discrete, kl, means.mean(0), noise)


def _of_site(guide: Site, model: Site, dim: int, closed: bool) -> _Part:
    how, kl = _kl(guide, model, closed)
    axis = dim - guide["fn"].event_dim
    mean = _by_datum(_mean(guide), axis)
    kl = _by_datum(kl, dim if how == "whole" else axis)
    return _Part(how, _is_discrete(guide["fn"]), kl, mean, torch.zeros_like(mean))


def _by_datum(values: Tensor, axis: int) -> Tensor:
    """Shape (batch, units), float64 on the CPU."""
    return values.movedim(axis, 0).reshape(values.shape[axis], -1).to("cpu", torch.float64)


def _factor(density: Any) -> Any | None:
    """The density of one unit, where the units are independent of each other; else None."""
    density = _inner(density)
    return density if density.event_shape == () else None


def _inner(density: Any) -> Any:
    while isinstance(density, dist.Independent):
        density = density.base_dist
    return density


def _kl(guide: Site, model: Site, closed: bool) -> tuple[str, Tensor]:
    """How KL was found, and the KL terms: shape of the value, or of the site's batch where it is whole.

    Closed forms hold where all that the prior may depend on was drawn before this site in the guide too: else
    (a chain that the guide walks upwards) the prior moves with the very z that is integrated out.
    """
    q, p, z = guide["fn"], model["fn"], guide["value"]
    if isinstance(_inner(q), dist.Delta):
        return "point", torch.zeros_like(z)
    one_q, one_p = _factor(q), _factor(p)
    if one_q is None or one_p is None:
        return "whole", _masked(q.log_prob(z), guide, 0) - _masked(p.log_prob(z), model, 0)
    if closed and guide["mask"] is None and model["mask"] is None:
        try:
            return "analytic", kl_divergence(one_q, one_p).expand(z.shape)
        except NotImplementedError:
            pass
    log_q, log_p = one_q.log_prob(z), one_p.log_prob(z)
    return "sampled", _masked(log_q, guide, q.event_dim) - _masked(log_p, model, p.event_dim)


def _masked(log_prob: Tensor, site: Site, event_dim: int) -> Tensor:
    if site["mask"] is None:
        return log_prob
    mask = torch.as_tensor(site["mask"], device=log_prob.device)
    return torch.where(mask.reshape(mask.shape + (1,) * event_dim), log_prob, 0.0)


def _mean(site: Site) -> Tensor:
    """The guide's mean at a site where it is known, else the draw."""
    try:
        mean = site["fn"].mean
    except NotImplementedError:
        return site["value"]
    return mean.expand(site["value"].shape) if bool(mean.isfinite().all()) else site["value"]


def _is_discrete(density: Any) -> bool:
    try:
        return bool(density.support.is_discrete)
    except NotImplementedError:
        return False
