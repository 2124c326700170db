"""Lower the chunk of an evaluation of log weights until it fits into the free memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.programs.fitting_runs import OTHER_DEVICE, FittingRun, run_within_memory
from pvae.programs.memory_limit import needs_limit
from pvae.randomness import preserved_randomness

__all__ = ["fitting_chunk", "run_with_fitting_chunk"]

#: For fewer evaluations of the model at once than this, memory is not checked.
_FEWEST_EVALUATIONS = 256

Result = TypeVar("Result")


def run_with_fitting_chunk(
    run: Callable[[int], Result],
    context: EvaluationContext,
    particles: int,
    chunk: int,
    trial: Callable[[int], object] | None = None,
) -> FittingRun[Result]:
    """Run the first part of an evaluation with the requested chunk, or with a half, a quarter, ... until it fits.

    A warning gives the chunk that is used in place of the requested one.

    Args:
        run: the first part of the evaluation, as a function of the chunk.
        context: the model and the data.
        particles: the number of draws of z per datum.
        chunk: the largest number of (particle, datum) evaluations at once.
        trial: a number of evaluations at once; by default that number of log weights.

    Raises:
        InputError: if the smallest part of the evaluation does not fit.
    """
    batch = context.batch
    evaluations = min(chunk, particles * batch.size)
    if not _is_watched(context, evaluations):
        return FittingRun(run(chunk), chunk)
    at_once = context.data_at_once(1)
    least = f"An evaluation of one particle of {at_once} of the data"

    def log_weights(count: int) -> None:
        data = min(batch.size, max(1, count // particles))
        context.log_weights(batch.take(slice(0, data)), max(1, count // data))

    fitting = run_within_memory(
        run, evaluations, batch.device, least=least, advice=OTHER_DEVICE, trial=trial or log_weights
    )
    if not fitting.shortage:
        return FittingRun(fitting.result, chunk)
    warnings.warn(
        f"chunk={fitting.size} is used in place of {chunk}. An evaluation of {evaluations} particles times data at "
        f"once {fitting.shortage} The draws depend on chunk.",
        stacklevel=4,
    )
    return fitting


def fitting_chunk(run: Callable[[int], object], context: EvaluationContext, particles: int, chunk: int) -> int:
    """Return the requested chunk, or a smaller one with which the first part of an evaluation fits.

    The random generators are restored.

    Args:
        run: the first part of the evaluation, as a function of the chunk; it runs only if it may not fit.
        context: the model and the data.
        particles: the number of draws of z per datum.
        chunk: the largest number of (particle, datum) evaluations at once.

    Raises:
        InputError: if the smallest part of the evaluation does not fit.
    """
    if not _is_watched(context, min(chunk, particles * context.batch.size)):
        return chunk
    with preserved_randomness():
        return run_with_fitting_chunk(run, context, particles, chunk, trial=run).size


def _is_watched(context: EvaluationContext, evaluations: int) -> bool:
    """Return whether a number of evaluations may need more memory than is free."""
    data = context.batch.take(slice(0, evaluations))
    return evaluations >= _FEWEST_EVALUATIONS and needs_limit(context.programs.modules, data, evaluations)
