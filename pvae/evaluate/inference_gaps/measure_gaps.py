"""`gaps`: the approximation gap and the amortisation gap of a guide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from pvae.checks import require_positive, require_whole
from pvae.data.splits import Splits
from pvae.evaluate.evaluated_data import ModelOrRun, evaluated_data
from pvae.evaluate.evaluation_context import evaluation_context
from pvae.evaluate.finding import evaluation_steps
from pvae.evaluate.inference_gaps.best_guides import BatchGaps, SearchSettings, gaps_of_batch
from pvae.evaluate.inference_gaps.gap_record import Gaps, gaps_of
from pvae.evaluate.inference_gaps.richer_family import RICHER
from pvae.evaluate.simulated_pairs import keyed_batches, require_local_latents
from pvae.names import unknown

__all__ = ["gaps"]

#: The number of data in a batch. The draws depend on it, so it is fixed.
_BATCH = 64


def gaps(
    model: ModelOrRun,
    data: Any = None,
    particles: int = 1000,
    *,
    steps: int = 300,
    rate: float = 0.05,
    draws: int = 16,
    richer: str | None = "full-covariance",
    limit: int | None = 100,
    seed: int = 0,
    progress: bool | None = None,
    **where: Any,
) -> Gaps:
    """Return the gap between log evidence and ELBO, as the sum of approximation gap and amortisation gap.

    The best q of the guide's family is found for each datum by gradient steps on its ELBO, from two starts: the
    encoder's q, and the prior. The better one, by new draws, is q*. Only the parameters of q* are optimised, so the
    model does not change. The gap log p - ELBO(q) is the approximation gap log p - ELBO(q*), which the family cannot
    close, plus the amortisation gap ELBO(q*) - ELBO(q), which the encoder could close. log p is estimated by importance
    sampling with q* and with the richer q*, so it is too low if both miss a mode of the posterior.

    If `data` are `Splits` and no split is named, the gaps of the training split are computed too, because an
    encoder can overfit.

    The draws are made in fixed batches, so the result depends only on the seed, not on options of memory.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits`, or another form of data; None for the data of a run. See `pvae.evaluate`.
        particles: the number of draws of z per datum for the final bounds.
        steps: the number of gradient steps from each start.
        rate: the learning rate of the first steps, in units of the unconstrained parameters.
        draws: the number of draws of z per datum and step.
        richer: ``"full-covariance"``, ``"flow"`` or None: a richer family for the same datum.
        limit: the largest number of data of each split; None takes all.
        seed: the seed of all draws.
        progress: None for a bar on a terminal and one line elsewhere; False for no output.
        where: ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if a count is below 1, the data share a latent site, or a site of the guide has no density or no
            parameters for each datum, such as a flow.
    Source: Cremer, Li & Duvenaud, Inference Suboptimality in Variational Autoencoders, arXiv:1801.03558, section 3.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> gaps = pvae.evaluate.gaps(model, x, particles=50, steps=5, draws=4, richer=None, progress=False)
        >>> gaps.amortisation > 0  # the encoder is not trained
        True
    """
    if richer is not None and richer not in RICHER:
        raise unknown("richer family", str(richer), RICHER)
    settings = SearchSettings(
        particles=require_whole(particles, "particles", least=2),
        steps=require_whole(steps, "steps"),
        rate=float(require_positive(rate, "rate")),
        draws=require_whole(draws, "draws", least=2),
        richer=richer,
        seed=seed,
    )
    data = evaluated_data(model, data)
    where = {**where, "limit": limit, "seed": seed}
    if "split" in where or not isinstance(data, Splits):
        return _gaps_of_split(model, data, settings, progress, where)
    train = _gaps_of_split(model, data, settings, progress, {**where, "split": "train"})
    test = _gaps_of_split(model, data, settings, progress, where)
    return replace(test, train=train, cost=test.cost + train.cost)


def _gaps_of_split(
    model: Any, data: Any, settings: SearchSettings, progress: bool | None, where: Mapping[str, Any]
) -> Gaps:
    """Return the gaps on one split."""
    with evaluation_context(model, data, **where) as context:
        require_local_latents(context.first_data, "The gap of a guide")
        expected = context.batch.size * settings.evaluations_per_datum
        with evaluation_steps("gaps", expected, progress=progress) as steps:
            batches = [
                gaps_of_batch(context, batch, settings, index, steps)
                for index, batch in enumerate(
                    keyed_batches(context, context.batch.size, _BATCH, settings.seed, stage=2)
                )
            ]
            return _joined(batches, settings, steps.done)


def _joined(batches: list[BatchGaps], settings: SearchSettings, cost: int) -> Gaps:
    """Return the gaps of all batches."""
    first = batches[0]
    has_richer = all(batch.richer_elbo is not None for batch in batches)
    richer_elbo = (
        torch.cat([batch.richer_elbo for batch in batches if batch.richer_elbo is not None]) if has_richer else None
    )
    return gaps_of(
        torch.cat([batch.evidence for batch in batches]),
        torch.cat([batch.elbo for batch in batches]),
        torch.cat([batch.best_elbo for batch in batches]),
        richer_elbo,
        cost,
        richer_family=settings.richer or "",
        family=first.family,
        notes=first.notes,
    )
