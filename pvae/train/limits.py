"""The limits at which a training ends: steps, seconds and decoder evaluations."""

from __future__ import annotations

from pvae.errors import InputError
from pvae.train.options import Options
from pvae.train.progress_state import ProgressState

__all__ = ["BUDGETS", "LIMITS", "evaluations_of_step", "reached_limit", "require_one_step"]

#: The options that limit a training, to give several trainings an equal budget.
BUDGETS = ("max_seconds", "max_evaluations")
LIMITS = ("max_steps", *BUDGETS)


def evaluations_of_step(options: Options, particles: int, data: int | None) -> int:
    """Return the decoder evaluations of a step on a batch of full size.

    Args:
        options: the options of the training.
        particles: the number of draws of z per datum.
        data: the number of training data; None if it is not known.
    """
    return particles * (options.batch_size if data is None else min(options.batch_size, data))


def reached_limit(options: Options, progress: ProgressState, evaluations: int) -> str:
    """Return the name of the limit that a training has reached; "" if there is none.

    Args:
        options: the options of the training.
        progress: its counts so far.
        evaluations: the decoder evaluations of the next step. A step that would exceed the limit is not taken.
    """
    if options.max_steps is not None and progress.step >= options.max_steps:
        return "max_steps"
    if options.max_seconds is not None:
        progress.update_seconds()
        if progress.seconds >= options.max_seconds:
            return "max_seconds"
    if options.max_evaluations is not None and progress.evaluations + evaluations > options.max_evaluations:
        return "max_evaluations"
    return ""


def require_one_step(options: Options, particles: int, data: int | None) -> None:
    """Raise InputError if one step needs more decoder evaluations than the limit of the training.

    Args:
        options: the options of the training.
        particles: the number of draws of z per datum.
        data: the number of training data; None if it is not known.
    """
    needed = evaluations_of_step(options, particles, data)
    if options.max_evaluations is not None and needed > options.max_evaluations:
        raise InputError(
            f"max_evaluations needs at least the {needed} decoder evaluations of one step ({particles} particles x "
            f"{needed // particles} data); got {options.max_evaluations}. Give a larger number, or a smaller "
            "batch_size."
        )
