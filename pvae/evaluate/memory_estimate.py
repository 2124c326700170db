"""Estimate the memory of an evaluation of log weights from two small evaluations, before it starts."""

from __future__ import annotations

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.memory import PeakMemory, require_memory
from pvae.randomness import preserved_randomness

__all__ = ["require_memory_for_weights"]

#: Fewer evaluations of the model than this at once are not estimated.
_FEWEST_EVALUATIONS = 256

#: The numbers of data of the two small evaluations, if there are as many.
_SMALL = (4, 8)


def require_memory_for_weights(context: EvaluationContext, batch: Batch, particles: int, advice: str) -> None:
    """Refuse an evaluation of log weights that needs more memory than is free.

    The memory grows linearly with particles times data. Two small evaluations show how fast. The random
    generators are restored after them.

    Args:
        context: the model.
        batch: the data.
        particles: the number of draws of z per datum.
        advice: what to lower, for the error.

    Raises:
        InputError: if the evaluation needs more memory than is free.
    """
    evaluations = particles * batch.size
    if evaluations < _FEWEST_EVALUATIONS:
        return
    # Programs for a fixed number of data run on no part of them, so fewer particles make the evaluation small.
    takes_parts = batch.size >= max(_SMALL) and context.data_at_once(min(_SMALL)) == min(_SMALL)
    sizes = _small_sizes(particles, batch.size, takes_parts=takes_parts)
    if sizes is None:
        return
    with preserved_randomness():
        try:
            _peak(context, batch, *sizes[0])  # the first evaluation also finds the layout of the programs
            first, second = (_peak(context, batch, *size) for size in sizes)
        except (InputError, RuntimeError, ValueError, IndexError):  # the evaluation itself reports what is wrong
            return
    (few, data), (more, more_data) = sizes
    per_evaluation = max(0.0, (second - first) / (more * more_data - few * data))
    needed = first + per_evaluation * (evaluations - few * data)
    task = f"An evaluation of {particles} particles of {batch.size} data at once"
    require_memory(needed, batch.device, task, advice)


def _small_sizes(particles: int, data: int, *, takes_parts: bool) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return particles and data of two small evaluations; None if the evaluation itself is as small."""
    small, larger = _SMALL
    if takes_parts:
        return (min(particles, 2), small), (min(particles, 2), larger)
    return ((2, data), (4, data)) if particles > 4 else None


def _peak(context: EvaluationContext, batch: Batch, particles: int, data: int) -> int:
    """Return the memory of an evaluation, in bytes."""
    part = batch if data == batch.size else batch.take(slice(0, data))
    with PeakMemory() as memory:
        context.log_weights(part, particles)
    return memory.bytes
