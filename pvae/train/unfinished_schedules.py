"""Warn before a training that is shorter than a schedule of the objective or of the learning rate."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from typing import Any

import torch

from pvae.objectives import Objective, Schedule
from pvae.objectives.kl.weighted_kl import StatefulObjective
from pvae.train.training_context import TrainingContext

__all__ = ["warn_of_unfinished_schedules"]

#: The attribute of a torch schedule that holds its length, with the number of epochs that it needs beyond this length.
#: A milestone at the last epoch changes the rate of no epoch.
_LENGTHS = {"T_max": 0, "total_iters": 0, "total_steps": 0, "T_0": 0, "total_size": 0, "step_size": 1, "milestones": 1}


def warn_of_unfinished_schedules(context: TrainingContext) -> None:
    """Warn for each schedule that is longer than the training, with both numbers.

    Args:
        context: the training, at its start or at the checkpoint from which it continues.
    """
    epochs, steps_in_epoch, most = context.options.epochs, context.steps_in_epoch, context.options.max_steps
    steps = most if steps_in_epoch is None else epochs * steps_in_epoch
    if steps_in_epoch is not None and most is not None and most < epochs * steps_in_epoch:
        steps, epochs = most, -(-most // steps_in_epoch)
    if not steps:  # the training has no steps, or an unknown number of them
        return
    for message in (*_of_objective(context, steps), *_of_learning_rate(context.schedule, epochs)):
        warnings.warn(message, stacklevel=4)


def _of_objective(context: TrainingContext, steps: int) -> Iterator[str]:
    """Yield a message for each schedule of the objective, or of one inside it, that ends after `steps` steps."""
    for objective in context.objective.modules():
        # An objective that was trained before continues its schedule.
        before = int(objective.steps) - context.progress.step if isinstance(objective, StatefulObjective) else 0
        for schedule in vars(objective).values():
            if isinstance(schedule, Schedule) and schedule.kind != "constant" and schedule.steps > before + steps:
                yield _message(objective, schedule, before, steps)


def _message(objective: Any, schedule: Schedule, before: int, steps: int) -> str:
    """Return the message for a schedule of an objective.

    Args:
        objective: the objective, whose settings name the length of the schedule.
        schedule: the schedule.
        before: the number of steps of earlier trainings.
        steps: the number of steps of this training.
    """
    last = float(schedule.at(torch.tensor(before + steps - 1), torch.zeros((), dtype=torch.float64)))
    settings = objective.settings() if isinstance(objective, Objective) else {}
    name = next((name for name, value in settings.items() if value == schedule.steps), "of the length")
    earlier = f", after {before} steps of an earlier one" if before else ""
    return (
        f"The warm-up of {type(objective).__name__} takes {schedule.steps} steps, and this training has {steps} steps"
        f"{earlier}: the last step has {last:.4g} instead of {schedule.end:g}. Lower the setting {name}, or "
        "train for more epochs."
    )


def _of_learning_rate(schedule: Any, epochs: int) -> Iterator[str]:
    """Yield a message for each schedule of torch that needs more epochs than the training has."""
    attributes = {} if schedule is None else vars(schedule)
    for inner in attributes.get("_schedulers", ()):
        yield from _of_learning_rate(inner, epochs)
    for name, more in _LENGTHS.items():
        value = attributes.get(name, attributes.get(f"_{name}")) or 0
        length = max(value) if isinstance(value, Collection) else value
        if length and length + more > epochs:
            yield (
                f"The schedule {type(schedule).__name__} of the learning rate has one step per epoch and "
                f"{name}={length:g}, and this training has {epochs} epochs, so the schedule does not reach its end. "
                f"Lower {name}, or train for more epochs."
            )
