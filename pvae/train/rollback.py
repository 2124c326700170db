"""After a divergence: find its cause, return to the last good state, and continue or stop."""

from __future__ import annotations

from typing import NoReturn

from pvae.errors import DivergenceError
from pvae.train.divergence import NonFiniteTensor, find_non_finite
from pvae.train.optimisers import rates, step_schedule
from pvae.train.parameters import all_finite
from pvae.train.snapshots import Snapshots
from pvae.train.training_context import TrainingContext

__all__ = ["roll_back"]

_MOST_ROLLBACKS = 10


def roll_back(context: TrainingContext, snapshots: Snapshots) -> None:
    """Return to the last good state, and halve the learning rate if the options ask to continue.

    The steps since the last good state are replayed, to find the first tensor that is not finite.

    Args:
        context: the objects of the training, after a step that diverged.
        snapshots: the snapshots of the training.

    Raises:
        DivergenceError: if the options ask to stop, or if no more rollbacks are allowed.
    """
    if context.group.is_shared:
        _stop_all_processes(context, snapshots)
    cause, step = _find_cause(context, snapshots)
    snapshots.restore_good()
    may_continue = context.options.on_divergence == "rollback" and context.progress.rollbacks < _MOST_ROLLBACKS
    if not may_continue:
        raise _error(context, cause, step)
    context.progress.rollbacks += 1
    _halve_learning_rate(context)
    rate = rates(context.optimiser)
    context.display.note(
        f"step {step}: {cause} is not finite; back to step {context.progress.step}, learning rate {_as_text(rate)}"
    )
    context.history.add(
        {
            "event": "rollback",
            "diverged_at": step,
            "culprit": str(cause),
            "learning_rate": rate,
            "step": context.progress.step,
            "seconds": context.progress.update_seconds(),
        }
    )
    snapshots.save()


def _stop_all_processes(context: TrainingContext, snapshots: Snapshots) -> NoReturn:
    """Raise DivergenceError in each process, without a search for the cause, which would need all processes."""
    step = context.progress.step
    snapshots.restore_good()
    raise DivergenceError(
        f"Training diverged at step {step}: a number is not finite. The last good state is from step "
        f"{context.progress.step}. Try a lower learning_rate or clip=1.0; in one process, the error names the tensor.",
        step=step,
    )


def _find_cause(context: TrainingContext, snapshots: Snapshots) -> tuple[NonFiniteTensor, int]:
    """Replay the steps since the last good state; return the first tensor that is not finite, and its step."""
    progress = context.progress
    failed = progress.step
    # The loss is not read at every step, so the cause may be an earlier step than the one that failed.
    first_checked = failed - context.steps_between_losses - 1
    last = failed + context.steps_between_losses
    snapshots.restore_good()
    while progress.epoch < context.options.epochs and progress.step <= last:
        for batch in context.remaining_batches():
            cause = find_non_finite(context.stepper, batch) if progress.step >= first_checked else None
            if cause is not None:
                return cause, progress.step + 1
            context.stepper(batch)
            progress.step += 1
            if progress.step > last:
                break
        step_schedule(context.schedule, None)
        progress.next_epoch()
    return _cause_after_last_step(context), failed


def _cause_after_last_step(context: TrainingContext) -> NonFiniteTensor:
    names = [name for name, parameter in context.parameters.named.items() if not all_finite([parameter])]
    if names:
        return NonFiniteTensor("", names[0], "parameter", "after the last step")
    in_validation = context.validation and find_non_finite(context.stepper, context.validation.batch)
    return in_validation or NonFiniteTensor("", "loss", "", "after the last step")


def _halve_learning_rate(context: TrainingContext) -> None:
    for group in context.optimiser.param_groups:
        group["lr"] = group["lr"] * 0.5
    if hasattr(context.schedule, "base_lrs"):  # ReduceLROnPlateau has none
        context.schedule.base_lrs = [rate * 0.5 for rate in context.schedule.base_lrs]


def _as_text(rate: float | dict[str, float]) -> str:
    if isinstance(rate, float):
        return f"{rate:g}"
    return ", ".join(f"{group} {group_rate:g}" for group, group_rate in rate.items())


def _error(context: TrainingContext, cause: NonFiniteTensor, step: int) -> DivergenceError:
    holder = "The model" if context.folder is None else str(context.folder / "last")
    return DivergenceError(
        f"Training diverged at step {step}: {cause} is not finite. {holder} has the last good state, from step "
        f"{context.progress.step}. Try a lower learning_rate, clip=1.0, or on_divergence='rollback'.",
        site=cause.site,
        tensor=cause.tensor,
        step=step,
    )
