"""Log evidence by importance sampling, and the bounds below it, from the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.base import Estimate
from pvae.evaluate.evaluation_context import prepared
from pvae.evaluate.shared import shared_elbo, shared_sites
from pvae.evaluate.stream import CHUNK, Bound, sweep

__all__ = ["elbo", "importance_bounds", "log_evidence"]


def log_evidence(model: Any, data: Any, particles: int = 1000, *, chunk: int = CHUNK, **where: Any) -> Estimate:
    """Return the mean log p(x) by importance sampling with the guide, in nats per datum.

    In expectation a lower bound on log p(x) for any number of particles, and tighter with more of them:
    compare models at the same number. The error covers the spread over data; how far the bound is below
    log p(x) is shown by `importance_bounds`, and by the Pareto k-hat of `diagnose`.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), a `Batch`, a tensor or an array.
        particles: draws of z per datum.
        chunk: greatest number of (particle, datum) evaluations at once, which bounds the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate`` of `prepared`.

    Raises:
        InputError: if there are no data, `particles` is below 1, or the programs give no weight per datum.
    Source: Burda, Grosse & Salakhutdinov, Importance Weighted Autoencoders, arXiv:1509.00519, section 5.
    """
    particles = require_whole(particles, "particles")
    return importance_bounds(model, data, (particles,), chunk=chunk, **where)[particles]


def elbo(model: Any, data: Any, particles: int = 1000, *, chunk: int = CHUNK, **where: Any) -> Estimate:
    """Return the mean evidence lower bound E_q[log p(x, z) - log q(z given x)], in nats per datum.

    With the same seed and `chunk` as `log_evidence` it is taken of the same weights. For the gap between the
    two, with its paired error, use `judge`.

    Where data share a latent, such as a decoder's weights, it is the ELBO of all N data, divided by N: N is the full
    size of the plate over data. This is then the only estimate that there is.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), a `Batch`, a tensor or an array.
        particles: draws of z per datum, averaged.
        chunk: greatest number of (particle, datum) evaluations at once, which bounds the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate`` of `prepared`.

    Raises:
        InputError: if there are no data, `particles` is below 1, or the programs give no weight per datum.
    """
    with prepared(model, data, **where) as setting:
        if shared_sites(setting):
            pointwise = shared_elbo(setting, particles, chunk)
        else:
            (pointwise,) = sweep(setting, particles, chunk, lambda: [Bound(1)])
    return Estimate.mean_of(pointwise)


def importance_bounds(
    model: Any, data: Any, particles: Sequence[int] = (50, 500, 5000), *, chunk: int = CHUNK, **where: Any
) -> dict[int, Estimate]:
    """Return the importance-weighted bound for each number of particles, in nats per datum.

    The bound rises with particles, to log p(x): where it still rises at the end, more particles are needed.
    All are of the same weights: the greatest number is drawn once, and a bound with fewer averages over all
    complete groups of that size.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), a `Batch`, a tensor or an array.
        particles: the numbers of particles.
        chunk: greatest number of (particle, datum) evaluations at once, which bounds the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate`` of `prepared`.

    Raises:
        InputError: if there are no data, a number is below 1, or the programs give no weight per datum.
    """
    particles = [require_whole(count, "particles") for count in particles]
    if not particles:
        raise InputError("importance_bounds needs at least one number of particles; got none.")
    with prepared(model, data, **where) as setting:
        found = sweep(setting, max(particles), chunk, lambda: [Bound(each) for each in particles])
    return {each: Estimate.mean_of(pointwise) for each, pointwise in zip(particles, found, strict=True)}
