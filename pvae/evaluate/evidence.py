"""Log evidence by importance sampling, the ELBO, and importance-weighted bounds, all from the same weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.arviz_versions import good_khat
from pvae.evaluate.base import Estimate
from pvae.evaluate.diagnostics import weight_statistics
from pvae.evaluate.evaluated_data import ModelOrRun
from pvae.evaluate.evaluation_context import EvaluationContext, evaluation_context
from pvae.evaluate.evidence_bias import bias_sizes, evidence_bias
from pvae.evaluate.running_statistics import CHUNK, Bound, Elbo, ParetoKhat, summarise_weights
from pvae.evaluate.shared_latents import joint_weights, shared_elbo, shared_sites
from pvae.evaluate.weight_notes import MOST_UNRELIABLE, weight_notes

# Weights of an exact posterior differ by rounding, in nats.
_ROUNDING = 1e-4

__all__ = ["elbo", "importance_bounds", "log_evidence", "summed_out_elbo"]

_ADVICE = "Use more particles, or a guide closer to the posterior; importance_bounds shows how the bound rises."


def log_evidence(
    model: ModelOrRun, data: Any = None, particles: int = 1000, *, chunk: int = CHUNK, **where: Any
) -> Estimate:
    """Return the mean log p(x) by importance sampling with the guide, in nats per datum.

    The expectation of the estimate is a lower bound on log p(x) for any number of particles, and a tighter one with
    more particles. The distance from log p(x) differs between models, also at the same number of particles. The
    standard error measures the spread over data, not this distance. ``log_evidence(...).bias`` estimates the distance
    from the rise of the bound (`EvidenceBias`; for 10 particles or more), and ``value - bias.value`` is the corrected
    estimate. A warning is given if Pareto k-hat or the effective sample size of more than a tenth of the data show that
    the distance is large; `diagnose` returns both for each datum, and `importance_bounds` shows how the bound rises.

    If all data share a latent site, such as the weights of a regression, the result is the log evidence of all N data
    together divided by N. Each draw then has one weight, for all data; a warning is given if these weights are too
    uneven.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
        particles: the number of draws of z per datum.
        chunk: the largest number of (particle, datum) evaluations at once, which limits the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if there are no data, `particles` is below 1, or the programs give no weight per datum.
    Source: Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, arXiv:1509.00519, section 5.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> evidence = pvae.evaluate.log_evidence(model, x, particles=5000)
        >>> print(evidence)  # nats per datum, with the standard error over data
        -2.803 ± 0.028
        >>> evidence > pvae.evaluate.elbo(model, x, particles=5000)
        True
    """
    particles = require_whole(particles, "particles")
    with evaluation_context(model, data, **where) as context:
        if shared_sites(context, chunk):
            return _joint_evidence(context, particles, chunk)
        sizes = (particles, *bias_sizes(particles))
        ess, khat, pointwise, *bounds = summarise_weights(
            context, particles, chunk, lambda: [*weight_statistics(particles), *map(Bound, sizes)]
        )
        notes = weight_notes(ess, khat, particles, MOST_UNRELIABLE) if _draws_latents(context, chunk) else []
    for note in notes:
        warnings.warn(f"The log evidence is not reliable: {note}. {_ADVICE}", stacklevel=2)
    return replace(context.estimate(pointwise), bias=evidence_bias(particles, pointwise, bounds))


def elbo(model: ModelOrRun, data: Any = None, particles: int = 1000, *, chunk: int = CHUNK, **where: Any) -> Estimate:
    """Return the mean evidence lower bound E_q[log p(x, z) - log q(z given x)], in nats per datum.

    The expectation over guide sites that are marked for enumeration is exact, so the value is the same without the
    mark; `summed_out_elbo` is the tighter bound in which they are summed out.

    With the same seed and `chunk` as `log_evidence` it uses the same weights. `judge` returns the gap between the two
    with its paired error.

    If all data share a latent site, such as a decoder's weights, the result is the ELBO of all N data divided by N,
    where N is the full size of the plate over data. Such a model has no weights per datum for `judge` and `diagnose`.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
        particles: the number of draws of z per datum; the ELBO is their mean.
        chunk: the largest number of (particle, datum) evaluations at once, which limits the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if there are no data, `particles` is below 1, or the programs give no weight per datum.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> elbo = pvae.evaluate.elbo(model, x, particles=1000)
        >>> print(elbo)  # nats per datum, with the standard error over data
        -3.36 ± 0.28
    """
    with evaluation_context(model, data, **where) as context:
        if shared_sites(context, chunk):
            pointwise = shared_elbo(context, particles, chunk)
        else:
            (pointwise,) = summarise_weights(context, particles, chunk, lambda: [Elbo()])
    return context.estimate(pointwise)


def summed_out_elbo(
    model: ModelOrRun, data: Any = None, particles: int = 1000, *, chunk: int = CHUNK, **where: Any
) -> Estimate:
    """Return the mean bound E_q(z)[log sum_y p(x, y, z) - log q(z given x)], in nats per datum.

    y are the guide's sites that are marked for enumeration. They are summed out inside the logarithm, so their q is not
    part of this bound. It is tighter than the ELBO, and equals it if the guide has no such site. Single-sample
    objectives of the weights, such as ``iwae`` with one particle, maximise it.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
        particles: the number of draws of z per datum; the bound is their mean.
        chunk: the largest number of (particle, datum) evaluations at once, which limits the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if there are no data, `particles` is below 1, or the programs give no weight per datum.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.GMVAE(4, components=3, inference="amortised", latent=2, hidden=8), torch.eye(4)
        >>> pvae.evaluate.summed_out_elbo(model, x, particles=50) > pvae.evaluate.elbo(model, x, particles=50)
        True
    """
    with evaluation_context(model, data, **where) as context:
        (pointwise,) = summarise_weights(context, particles, chunk, lambda: [Bound(1)])
    return context.estimate(pointwise)


def importance_bounds(
    model: ModelOrRun, data: Any = None, particles: Sequence[int] = (50, 500, 5000), *, chunk: int = CHUNK, **where: Any
) -> dict[int, Estimate]:
    """Return the importance-weighted bound for each number of particles, in nats per datum.

    The bound rises to log p(x) with the number of particles. If it still rises between the two largest numbers, more
    particles are needed. All bounds use the same weights: the largest number is drawn once, and the bound of a smaller
    number is the mean over all complete groups of that size.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
        particles: the numbers of particles.
        chunk: the largest number of (particle, datum) evaluations at once, which limits the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if there are no data, a number is below 1, or the programs give no weight per datum.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> bounds = pvae.evaluate.importance_bounds(model, x, particles=(10, 100, 1000))
        >>> bounds[10] < bounds[100] < bounds[1000]
        True
    """
    particles = [require_whole(count, "particles") for count in particles]
    if not particles:
        raise InputError("importance_bounds needs at least one number of particles; got none.")
    with evaluation_context(model, data, **where) as context:
        if shared_sites(context, chunk):
            bounds = _joint_bounds(context, particles, chunk)
        else:
            bounds = summarise_weights(context, max(particles), chunk, lambda: [Bound(count) for count in particles])
    return {count: context.estimate(pointwise) for count, pointwise in zip(particles, bounds, strict=True)}


def _draws_latents(context: EvaluationContext, chunk: int) -> bool:
    """Return whether the guide draws a latent; if all latents are summed out, one weight is the exact evidence."""
    return bool(context.bound_to(next(context.chunks(chunk))).layout.latent_dims)


def _joint_evidence(context: EvaluationContext, particles: int, chunk: int) -> Estimate:
    """Return the log evidence of all data together, divided by their number.

    With one weight, the error of the bias is not known.
    """
    pointwise, *bounds = _joint_bounds(context, (particles, *bias_sizes(particles)), chunk, stacklevel=4)
    bias = evidence_bias(particles, pointwise, bounds)
    if bias is not None:
        bias = replace(bias, error=math.nan, pointwise=None)
    return replace(context.estimate(pointwise), bias=bias)


def _joint_bounds(
    context: EvaluationContext, particles: Sequence[int], chunk: int, stacklevel: int = 3
) -> list[Tensor]:
    """Return the bounds on the log evidence of all data together, divided by their number, shape (data,) each.

    The bound is not a sum over data. The values returned here differ by the terms log p(x, z given w) - log q(z given
    x) of the data, where w is shared; their mean is the bound.
    """
    most = max(particles)
    log_w, local = joint_weights(context, most, chunk)
    bounds = []
    for count in particles:
        bound = Bound(count)
        bound.add(log_w.unsqueeze(1))
        bounds.append(local - local.mean() + bound.result() / len(local))
    tail = ParetoKhat(most)
    tail.add(log_w.unsqueeze(1))
    khat = float(tail.result())
    if khat > good_khat(most) and float(log_w.max() - log_w.min()) > _ROUNDING:
        warnings.warn(
            f"All data share site {shared_sites(context, chunk)[0]!r}, so each draw has one weight for all data. The "
            f"Pareto k-hat of these weights is {khat:.2f}, above {good_khat(most):.2f}: the log evidence is too low by "
            "an amount that the error does not include. Use more particles or a guide closer to the posterior, or "
            "compare the ELBO.",
            stacklevel=stacklevel,
        )
    return bounds
