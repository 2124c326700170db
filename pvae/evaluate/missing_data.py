"""How well a model predicts missing entries of x, and how much they change the guide."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.base import Estimate
from pvae.evaluate.evaluated_data import ModelOrRun
from pvae.evaluate.evaluation_context import EvaluationContext, evaluation_context
from pvae.evaluate.running_statistics import CHUNK, Bound, summarise_weights
from pvae.programs.base import pair
from pvae.programs.bound import BoundPrograms
from pvae.programs.sites import sample_sites
from pvae.weights.log_probs import PlateDims, log_probs_by_site, sum_tensors

__all__ = ["masking_divergence", "missing_log_likelihood"]


def missing_log_likelihood(
    model: ModelOrRun,
    data: Any = None,
    particles: int = 1000,
    *,
    known: Tensor | None = None,
    chunk: int = CHUNK,
    **where: Any,
) -> Estimate:
    """Return the mean log p(missing given observed), in nats per missing entry.

    For each datum it is log p(x) - log p(observed entries of x), both by importance sampling, divided by the number of
    missing entries. The data have a complete ``x``, and a ``mask`` that is 0 at the entries to predict. Data without
    such entries are left out. For pixels in {0, 1} the result is comparable with `filled_log_likelihood`.

    p(x) is estimated twice, with draws from the guide given all of x and with draws from the guide given the observed
    entries. The mean of the two estimates is used, which is unbiased too. A guide that was trained with masks may never
    have seen complete data, so its draws for complete data may be poor; the mean is then too low by at most log 2 per
    datum.

    By Jensen's inequality both logarithms are too low in expectation. The difference is too low if the guide is worse
    for complete data than for masked data, which is usual because more observed entries give a narrower posterior, and
    too high otherwise. The bias vanishes with more particles: increase their number until the result does not change.

    Args:
        model: a run, or a latent model with programs that take ``(x, mask)``.
        data: `Splits` (the test split) or a `Batch`, with the field ``mask``.
        particles: the number of draws of z per datum, for each of the three estimates.
        known: 1 where x is the true value, 0 where the value of x itself is missing, in the shape of x; None if all
            values are known.
        chunk: the largest number of (particle, datum) evaluations at once, which limits the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if the data have no mask, the programs take no mask, no entry is missing, or the programs give no
            weight per datum.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model = pvae.MaskedVAE(4, latent=2, hidden=8)
        >>> data = pvae.Batch(x=torch.eye(4), mask=torch.tensor([[0.0, 1.0, 1.0, 1.0]]).repeat(4, 1))
        >>> print(pvae.evaluate.missing_log_likelihood(model, data, particles=1000))
        -0.584 ± 0.085
    """
    with evaluation_context(model, data, **where) as context:
        complete = _with_known_entries(context, known)
        missing = (complete.batch["mask"] - context.batch["mask"]).flatten(1).sum(1).to("cpu", torch.float64)
        has_missing = missing > 0
        if not bool(has_missing.any()):
            raise InputError(
                "missing_log_likelihood needs data with missing entries. Nothing is missing in these data; load them "
                "with a mask, for example mask='block'."
            )
        # The order of these three estimates is part of the result, because they draw from one random generator.
        log_p_complete = _log_evidence(complete, particles, chunk)
        log_p_mixed = _log_evidence(_guide_at_observed(context, complete), particles, chunk)
        log_p_observed = _log_evidence(context, particles, chunk)
        log_p_all = torch.logaddexp(log_p_complete, log_p_mixed) - math.log(2)
    return Estimate.mean_of(((log_p_all - log_p_observed) / missing)[has_missing])


def _log_evidence(context: EvaluationContext, particles: int, chunk: int) -> Tensor:
    """Return the importance-sampled log evidence of each datum, shape (data,), nats."""
    (log_evidence,) = summarise_weights(context, particles, chunk, lambda: [Bound(particles)])
    return log_evidence


def masking_divergence(
    model: ModelOrRun, data: Any = None, particles: int = 100, *, chunk: int = CHUNK, **where: Any
) -> Estimate:
    """Return the mean of KL(q(z given the observed entries) to q(z given all of x)), in nats per datum.

    It measures how much information about z the mask removes from the guide; it is 0 if the missing entries have no
    information about z. For a guide with one latent site, the closed form of its family is used if there is one, as for
    diagonal Gaussians. For other guides it is the mean over `particles` draws of z given the observed entries.

    Args:
        model: a run, or a latent model with programs that take ``(x, mask)``.
        data: `Splits` (the test split) or a `Batch`, with the field ``mask`` and a complete ``x``.
        particles: the number of draws of z per datum, if there is no closed form.
        chunk: the largest number of data at once; it bounds the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if the data have no mask, or the programs take no mask.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model = pvae.MaskedVAE(4, latent=2, hidden=8)
        >>> data = pvae.Batch(x=torch.eye(4), mask=torch.tensor([[0.0, 1.0, 1.0, 1.0]]).repeat(4, 1))
        >>> pvae.evaluate.masking_divergence(model, data) > 0
        True
    """
    particles, chunk = require_whole(particles, "particles"), require_whole(chunk, "chunk")
    with evaluation_context(model, data, **where) as context:
        complete = _with_known_entries(context, None)
        batches = zip(context.chunks(chunk), complete.chunks(chunk), strict=True)
        divergences = [
            _divergence(context.bound_to(masked), context.bound_to(whole), context.data_plate, particles)
            for masked, whole in batches
        ]
    return Estimate.mean_of(torch.cat(divergences))


def _with_known_entries(context: EvaluationContext, known: Tensor | None) -> EvaluationContext:
    """Return the context with a mask that marks all known entries as observed."""
    batch = context.batch
    if "mask" not in batch:
        raise InputError(
            "This needs data with the field mask, and programs that take it; the data have "
            f"{', '.join(batch)}. Load the data with a mask, for example mask='block'."
        )
    if "mask" not in context.programs.fields:
        raise InputError(
            "This needs data with the field mask, and programs that take it; the programs take no mask. Use a model "
            "for masked data, or give both programs a parameter mask."
        )
    mask = torch.ones_like(batch["mask"])
    if known is not None:
        mask = context.rows_of(known).to(mask).reshape(mask.shape)
    return dataclasses.replace(context, batch=batch.replace(mask=mask))


def _guide_at_observed(context: EvaluationContext, complete: EvaluationContext) -> EvaluationContext:
    """Return a context with a guide that gets the mask of the observed entries, and a model that gets the known mask.

    `BoundPrograms` gives both programs the same arguments. These two programs need different masks, so they are a new
    pair of programs: each gets both masks, and passes the right one on to the user's program.
    """
    programs = context.programs
    mask_index = programs.fields.index("mask")

    def guide(*values: Tensor) -> None:
        programs.guide(*values[:-1])

    def model(*values: Tensor) -> None:
        *values_with_observed, known = values
        programs.model(*values_with_observed[:mask_index], known, *values_with_observed[mask_index + 1 :])

    batch = context.batch.replace(known=complete.batch["mask"])
    return EvaluationContext(pair(model, guide), batch, (*programs.fields, "known"), context.data_plate)


def _divergence(masked: BoundPrograms, complete: BoundPrograms, data_plate: str | None, particles: int) -> Tensor:
    """Return KL(q(z given the observed entries) to q(z given all of x)) of each datum, shape (batch,), nats.

    Args:
        masked: the programs on data with the mask of the observed entries.
        complete: the programs on the same data with every entry observed.
        data_plate: the name of the plate over data, if several plates hold every site.
        particles: the number of draws of z, if there is no closed form.
    """
    layout = masked.layout
    dims = PlateDims(layout.nesting, layout.data_plate(data_plate)[1], 1)
    masked_sites = sample_sites(masked.trace_guide())
    complete_sites = sample_sites(complete.trace_guide())
    if len(masked_sites) == 1:
        try:
            divergence = kl_divergence(masked_sites[0]["fn"], complete_sites[0]["fn"])
            return dims.reduce(divergence)[0].to("cpu", torch.float64)
        except NotImplementedError:
            pass
    summed = torch.zeros(masked.size, dtype=torch.float64)
    for _ in range(particles):
        trace = masked.trace_guide()
        log_ratio = _log_density(trace, dims) - _log_density(complete.trace_guide(trace), dims)
        summed += log_ratio.to("cpu", torch.float64)
    return summed / particles


def _log_density(trace: poutine.Trace, dims: PlateDims) -> Tensor:
    """Return the log-density of all sites of a trace for each datum, shape (batch,), nats."""
    return sum_tensors(log_probs_by_site([sample_sites(trace)], dims).values())[0]
