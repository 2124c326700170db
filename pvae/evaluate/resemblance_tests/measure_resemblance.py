"""`resemblance`: tests of whether real data resemble data that the model generates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.evaluate.evaluated_data import ModelOrRun
from pvae.evaluate.evaluation_context import EvaluationContext, evaluation_context
from pvae.evaluate.finding import EvaluationSteps, evaluation_steps
from pvae.evaluate.resemblance_tests.resemblance_record import Resemblance, resemblance_of
from pvae.evaluate.simulated_pairs import keyed_batches, require_local_latents, simulate_pairs
from pvae.train.devices import reseed
from pvae.weights import log_mean_exp

__all__ = ["evidence_of_batch", "resemblance", "values_of_data"]

#: The number of data in a batch, and the largest number of particles of one run. The draws depend on both.
_BATCH, _PARTICLES_AT_ONCE = 64, 100


def resemblance(
    model: ModelOrRun,
    data: Any = None,
    particles: int = 100,
    *,
    simulations: int | None = None,
    permutations: int = 500,
    limit: int | None = 1000,
    seed: int = 0,
    progress: bool | None = None,
    **where: Any,
) -> Resemblance:
    """Return whether real data resemble data that the model generates, by three tests.

    The typicality gap compares mean log p(x) of both, with the same number of particles, so that the bias of the
    estimates is about the same. The classifier and the kernel test compare x itself, not latents.

    The draws are made in fixed batches, so the result depends only on the seed, not on options of memory.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
            With the training data, the result would be too good.
        particles: the number of draws of z per datum for log p(x).
        simulations: the number of data that the model generates; by default the number of data.
        permutations: the number of random permutations of the classifier and of the kernel test.
        limit: the largest number of data; None takes all.
        seed: the seed of all draws.
        progress: None for a bar on a terminal and one line elsewhere; False for no output.
        where: ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if a count is too small, the data share a latent site, or an observed site is not a field of the
            data.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> x = x.repeat(5, 1)
        >>> finding = pvae.evaluate.resemblance(model, x, particles=5, permutations=20, progress=False)
        >>> finding.status, sorted(finding.adjusted)  # with p-values
        ('fine', ['classifier', 'kernel (MMD)', 'typicality gap'])
    """
    particles = require_whole(particles, "particles")
    permutations = require_whole(permutations, "permutations", least=19)
    with evaluation_context(model, data, limit=limit, seed=seed, **where) as context:
        require_local_latents(context.first_data, "A test of resemblance")
        count = context.batch.size if simulations is None else require_whole(simulations, "simulations", least=5)
        expected = (context.batch.size + count) * particles + count
        with evaluation_steps("resemblance", expected, progress=progress) as steps:
            real, generated, values = [], [], []
            for index, batch in enumerate(keyed_batches(context, context.batch.size, _BATCH, seed, stage=3)):
                real.append(evidence_of_batch(context, batch, particles, (seed, 4, index), steps))
            for index, batch in enumerate(keyed_batches(context, count, _BATCH, seed, stage=5)):
                pairs = simulate_pairs(context, batch)
                steps.advance(batch.size)
                values.append(values_of_data(pairs.batch))
                generated.append(evidence_of_batch(context, pairs.batch, particles, (seed, 6, index), steps))
            return resemblance_of(
                (torch.cat(real), torch.cat(generated)),
                (values_of_data(context.batch), torch.cat(values)),
                permutations=permutations,
                seed=seed,
                cost=steps.done,
            )


def values_of_data(batch: Batch) -> Tensor:
    """Return x of each datum as one row, shape (batch, units); unknown entries of x are 0.

    Args:
        batch: the data; without a field ``x``, the first field is used.
    """
    x = batch["x"] if "x" in batch else batch[batch.names[0]]
    mask = batch.get("mask")
    x = x.double().nan_to_num()
    return (x if mask is None or mask.shape != x.shape else x * (mask != 0)).reshape(len(x), -1)


def evidence_of_batch(
    context: EvaluationContext, batch: Batch, particles: int, key: tuple[int, ...], steps: EvaluationSteps
) -> Tensor:
    """Return log p(x) of each datum by importance sampling, shape (batch,), float64 on the CPU, nats.

    Args:
        context: the model.
        batch: the data.
        particles: the number of draws of z per datum.
        key: the seed and the numbers of the batch, which determine the draws.
        steps: counts the decoder evaluations.
    """
    parts = []
    for run, start in enumerate(range(0, particles, _PARTICLES_AT_ONCE)):
        reseed(*key, run)
        count = min(_PARTICLES_AT_ONCE, particles - start)
        parts.append(context.log_weights(batch, count).log_w.detach().to("cpu", torch.float64))
        steps.advance(count * batch.size)
    return log_mean_exp(torch.cat(parts))
