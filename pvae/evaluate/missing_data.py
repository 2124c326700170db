"""What a model says of missing entries, and how far its guide goes without them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.base import Estimate
from pvae.evaluate.evaluation_context import Setting, prepared
from pvae.evaluate.stream import CHUNK, Bound, sweep
from pvae.programs.base import pair
from pvae.programs.sites import sample_sites
from pvae.weights.log_probs import PlateDims, log_probs_by_site, sum_tensors

__all__ = ["masking_divergence", "missing_log_likelihood"]


def missing_log_likelihood(
    model: Any,
    data: Any,
    particles: int = 1000,
    *,
    known: Tensor | None = None,
    chunk: int = CHUNK,
    **where: Any,
) -> Estimate:
    """Return the mean log p(missing given observed), in nats per missing entry.

    It is log p(x) - log p(x observed), both by importance sampling, of the data whose ``x`` is complete and whose
    ``mask`` leaves entries out, divided datum by datum by the number of those; data with none are left out. For pixels
    in {0, 1} it compares with `filled_log_likelihood`.

    p(x) is estimated twice, at z of the guide given all of x and given the observed entries alone, and the mean is
    taken, which is unbiased as well: a guide that was trained with masks has perhaps never seen complete data, and is
    then far off there, which costs log 2 of a datum and no more. In the logarithm both parts are too low, by Jensen's
    inequality; so the difference is too low where the guide falls short for complete data by more than for masked
    ones, which is usual (more observed entries make a narrower posterior), and too high otherwise. Either vanishes
    with more particles: take more until nothing moves.

    Args:
        model: a run, or a latent model whose programs take ``(x, mask)``.
        data: `Splits` (the test split) or a `Batch`, with the field ``mask``.
        particles: draws of z per datum, for each of the three estimates.
        known: where the true value is in x, shape of x (1, or 0 where the data have missing values of their own);
            None for everywhere.
        chunk: greatest number of (particle, datum) evaluations at once, which bounds the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate`` of `prepared`.

    Raises:
        InputError: if there is no mask, the programs take none, nothing is missing, or there is no weight per datum.
    """
    with prepared(model, data, **where) as setting:
        complete = _complete(setting, known)
        hidden = (complete.batch["mask"] - setting.batch["mask"]).flatten(1).sum(1).to("cpu", torch.float64)
        some = hidden > 0
        if not bool(some.any()):
            raise InputError("Nothing is missing in these data: load them with mask='block', say.")
        (at_all,), (across,), (of_observed,) = (
            sweep(each, particles, chunk, lambda: [Bound(particles)])
            for each in (complete, _across(setting, complete), setting)
        )
        of_all = torch.logaddexp(at_all, across) - math.log(2)
    return Estimate.mean_of(((of_all - of_observed) / hidden)[some])


def masking_divergence(model: Any, data: Any, particles: int = 100, *, chunk: int = CHUNK, **where: Any) -> Estimate:
    """Return the mean of KL(q(z given the observed entries) to q(z given all of x)), in nats per datum.

    It measures what the guide loses by the mask: 0 where the missing entries say nothing of z. In closed form where
    the guide has one latent site whose family has one, as diagonal Gaussians have; else the mean over `particles`
    draws of z given the observed entries.

    Args:
        model: a run, or a latent model whose programs take ``(x, mask)``.
        data: `Splits` (the test split) or a `Batch`, with the field ``mask`` and a complete ``x``.
        particles: draws of z per datum, where there is no closed form.
        chunk: greatest number of data at once, which bounds the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate`` of `prepared`.

    Raises:
        InputError: if there is no mask, or the programs take none.
    """
    particles, chunk = require_whole(particles, "particles"), require_whole(chunk, "chunk")
    with prepared(model, data, **where) as setting:
        complete = _complete(setting, None)
        pairs = zip(setting.slices(chunk), complete.slices(chunk), strict=True)
        found = [_divergence(setting, masked, whole, particles) for masked, whole in pairs]
    return Estimate.mean_of(torch.cat(found))


def _complete(setting: Setting, known: Tensor | None) -> Setting:
    """The setting with all entries observed that are known."""
    batch = setting.batch
    if "mask" not in batch or "mask" not in setting.programs().fields:
        there = "the programs take none" if "mask" in batch else f"the data have {', '.join(batch)}"
        raise InputError(f"This needs data with the field mask, and programs that take it; {there}.")
    mask = torch.ones_like(batch["mask"])
    if known is not None:
        mask = known[: batch.size].to(mask).reshape(mask.shape)
    return dataclasses.replace(setting, batch=batch.replace(mask=mask))


def _across(setting: Setting, complete: Setting) -> Setting:
    """A setting whose guide sees the observed entries, and whose model all that are known."""
    programs = setting.programs()
    place = programs.fields.index("mask")

    def guide(*values: Tensor) -> None:
        programs.guide(*values[:-1])

    def model(*values: Tensor) -> None:
        *observed, known = values
        programs.model(*observed[:place], known, *observed[place + 1 :])

    batch = setting.batch.replace(known=complete.batch["mask"])
    return Setting(pair(model, guide), batch, (*programs.fields, "known"), setting.data_plate)


def _divergence(setting: Setting, masked: Batch, whole: Batch, particles: int) -> Tensor:
    programs = setting.programs()
    of_masked, of_whole = programs.bound_to(masked), programs.bound_to(whole)
    layout = of_masked.layout
    shape = PlateDims(layout.nesting, layout.data_plate(setting.data_plate)[1], 1)
    sites = [sample_sites(each.trace_guide()) for each in (of_masked, of_whole)]
    if len(sites[0]) == 1:
        try:
            return shape.reduce(kl_divergence(sites[0][0]["fn"], sites[1][0]["fn"]))[0].to("cpu", torch.float64)
        except NotImplementedError:
            pass
    summed = torch.zeros(masked.size, dtype=torch.float64)
    for _ in range(particles):
        trace = of_masked.trace_guide()
        again = of_whole.trace_guide(trace)
        ours, theirs = (
            sum_tensors(log_probs_by_site([sample_sites(each)], shape).values())[0] for each in (trace, again)
        )
        summed += (ours - theirs).to("cpu", torch.float64)
    return summed / particles
