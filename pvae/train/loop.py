"""`Loop`: the loop over epochs and steps, with validation, records, early stopping and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pvae.batch import Batch
from pvae.errors import InputError, LostProcessError, first_line
from pvae.memory import keep_freed_memory
from pvae.programs.parameter_scope import store_tensors
from pvae.train.checkpoint import Snapshot
from pvae.train.distributed.share_result import copy_model_from_first
from pvae.train.divergence import NonFiniteStep, find_non_finite
from pvae.train.limits import BUDGETS, LIMITS, reached_limit
from pvae.train.module_flags import notes_of_flags
from pvae.train.optimisers import rates, step_schedule
from pvae.train.parameters import all_finite
from pvae.train.rollback import roll_back
from pvae.train.snapshots import Snapshots
from pvae.train.training_context import TrainingContext
from pvae.train.validation import Validation

__all__ = ["Loop"]


class Loop:
    """Trains until all epochs are done, or until a limit, a callback or a signal ends the training.

    Args:
        context: the objects of the training.

    Attributes:
        snapshots: the last good state and the best state.
    """

    def __init__(self, context: TrainingContext) -> None:
        self.context = context
        self.snapshots = Snapshots(context)
        self._steps_between_losses = context.steps_between_losses
        context.stepper.compiled.steps_left = context.steps_left
        context.stepper.compiled.note = context.display.note

    def resume(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot. Iterable data are read from their start, because their position is not known.

        Raises:
            InputError: if decoder evaluations are limited, and the snapshot does not record their number.
        """
        if self.context.options.max_evaluations is not None and "evaluations" not in snapshot.state:
            raise InputError(
                "max_evaluations needs a checkpoint with the number of decoder evaluations so far; this one is from an "
                "earlier version of pvae and has none. Give max_steps or epochs."
            )
        progress = self.context.progress
        self._restore(snapshot)
        for note in notes_of_flags(snapshot.state, self.context.parameters.modules):
            self.context.display.note(note)
        for change in self.context.stepper.changes_of_bits():
            self.context.display.note(
                f"note: numbers may differ in their last bits from those of an uninterrupted training: {change}"
            )
        if self.context.restarts_epochs and progress.step_in_epoch:
            self.context.display.note(
                f"note: the position in iterable data cannot be restored; epoch {progress.epoch + 1} reads them from "
                f"the start again, after the {progress.step_in_epoch} steps that are done"
            )
            progress.restart_epoch()

    def _restore(self, snapshot: Snapshot) -> None:
        """Set the training to the state of a snapshot; raise InputError if no training writes this state."""
        try:
            self.snapshots.restore(snapshot)
        except InputError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise self._impossible_state(f"{type(error).__name__}: {first_line(error)}") from error
        steps = self.context.steps_in_epoch
        if steps is not None and self.context.progress.step_in_epoch > steps:
            raise self._impossible_state(f"step {self.context.progress.step_in_epoch} of an epoch of {steps} steps")

    def _impossible_state(self, reason: str) -> InputError:
        return InputError(
            f"The checkpoint of {self.context.folder} is damaged: it has a state that no training writes ({reason}). "
            "Restore it from a copy, or train again with another out."
        )

    def run(self) -> None:
        """Train. Afterwards the model holds the last parameters, and the last checkpoint is written.

        Raises:
            DivergenceError: if a number is not finite, and the options do not allow another rollback.
            OSError: if a checkpoint cannot be written.
            KeyboardInterrupt: after SIGINT.
            SystemExit: after SIGTERM.
        """
        context, progress = self.context, self.context.progress
        keep_freed_memory()
        copy_model_from_first(context.group, context.parameters)
        if self.snapshots.good is None:
            self.snapshots.save()
        if progress.finished and not self._may_continue():
            return
        progress.finished = ""
        context.display.start(progress.epoch, context.options.epochs, context.steps_in_epoch)
        progress.start_clock()
        try:
            while not self._train_to_end():
                roll_back(context, self.snapshots)
        finally:
            context.display.close()
        self._note_parameters()
        if context.interrupts.pending:
            context.interrupts.stop()

    def _note_parameters(self) -> None:
        """Print a note about the parameters of ``pyro.param``: outside the model's scope, a program makes new ones."""
        names = list(store_tensors(self.context.latent_model))
        if names:
            listed = ", ".join(names[:3]) + ", ..." * (len(names) > 3)
            self.context.display.note(
                f"note: the model keeps the trained parameters {listed}; Pyro's own store does not have them. Use the "
                "programs elsewhere, as in Predictive, inside `with pvae.programs.scope(run.model):`."
            )

    def _may_continue(self) -> bool:
        """Whether the options ask for more epochs or steps than a finished run has."""
        options, progress = self.context.options, self.context.progress
        if progress.finished in LIMITS:
            return not reached_limit(options, progress, self.context.evaluations_of_next_step)
        return progress.finished == "epochs" and progress.epoch < options.epochs

    def _train_to_end(self) -> bool:
        """Train to the end and save; return False if a number is not finite."""
        progress = self.context.progress
        try:
            while not progress.finished and progress.epoch < self.context.options.epochs:
                self._train_epoch()
            progress.finished = progress.finished or "epochs"
            self.snapshots.save()
        except NonFiniteStep:
            return False
        return True

    def _train_epoch(self) -> None:
        context, progress = self.context, self.context.progress
        context.stepper.refresh()
        steps = progress.step
        for batch in context.remaining_batches():
            self._train_batch(batch)
            if progress.finished:
                self._end_at_limit()
                return
        if progress.step == steps and not progress.step_in_epoch:
            raise InputError(
                "The training data have no batches in this epoch. Fill the data set, or check its sampler."
            )
        self._end_epoch()

    def _end_at_limit(self) -> None:
        """End the epoch if all its steps are done; otherwise validate the parameters, because the budget has ended."""
        context, progress = self.context, self.context.progress
        if progress.finished in BUDGETS:
            if progress.step_in_epoch == context.steps_in_epoch:
                self._end_epoch()
            else:
                self._end_within_epoch()

    def _end_within_epoch(self) -> None:
        """Validate the parameters if the budget ends within an epoch, because they may be the best ones."""
        context, progress = self.context, self.context.progress
        if not all_finite(list(context.parameters.named.values())):
            raise NonFiniteStep
        scores = {} if context.validation is None else self._validate(context.validation)
        self._keep_if_best(scores.get("validation_bound"))
        facts = {"event": progress.finished, "step": progress.step, "evaluations": progress.evaluations}
        context.history.add({**facts, **scores, "seconds": progress.update_seconds()})

    def _train_batch(self, batch: Batch) -> None:
        """Take one step, count it, and save if a checkpoint is due or a signal has come."""
        context, progress = self.context, self.context.progress
        numbers = self._take_step(batch)
        reduction = context.stepper.reduction
        rows = batch.size if reduction is None else reduction.rows
        progress.add_step(context.stepper.names, numbers, rows, context.objective.num_particles)
        loss = numbers[0]
        if progress.step % self._steps_between_losses == 0 and not math.isfinite(loss.item()):
            raise NonFiniteStep
        context.call_after_step()
        context.display.show_step(progress.epoch, progress.step_in_epoch, loss.item)
        if context.interrupts.pending if reduction is None else reduction.stop:
            self.snapshots.save()
            context.interrupts.stop()
        progress.finished = reached_limit(context.options, progress, context.evaluations_of_next_step)
        if self.snapshots.save_is_due:
            self.snapshots.save()

    def _take_step(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the numbers of one step.

        Raises:
            NonFiniteStep: if an error of Pyro or torch came from a tensor that is not finite. Pyro's validation and
                torch's factorisations raise such errors in an eager step.
        """
        try:
            return self.context.stepper(batch)
        except (InputError, LostProcessError):
            raise
        except (ValueError, ArithmeticError, RuntimeError):
            if not self._is_divergence(batch):
                raise
            raise NonFiniteStep from None

    def _is_divergence(self, batch: Batch) -> bool:
        """Whether a step that raised an error has a tensor that is not finite."""
        try:
            return find_non_finite(self.context.stepper, batch) is not None
        except Exception:  # the programs fail for another reason, and that error is raised
            return False

    def _end_epoch(self) -> None:
        """Validate, record the epoch, call the callbacks, and save if a checkpoint is due."""
        context, progress = self.context, self.context.progress
        means = progress.means()
        if not math.isfinite(means["loss"]) or not all_finite(list(context.parameters.named.values())):
            raise NonFiniteStep
        rate = rates(context.optimiser)
        scores = {} if context.validation is None else self._validate(context.validation)
        bound = scores.get("validation_bound")
        self._keep_if_best(bound)
        step_schedule(context.schedule, -means["loss"] if context.validation is None else bound)
        progress.next_epoch()
        self._record_epoch({**means, **scores}, rate)
        self._call_callbacks()
        context.objective.diagnose()
        patience = context.options.patience
        if patience is not None and progress.stale >= patience:
            progress.finished = "patience"
        if context.folder is None or self.snapshots.save_is_due:
            self.snapshots.save()

    def _validate(self, validation: Validation) -> dict[str, float | None]:
        """Return the validation score.

        Raises:
            NonFiniteStep: if an error of Pyro or torch came from a tensor that is not finite. The last step of the
                epoch has changed the parameters, and no later step has used them.
        """
        kind, reason = validation.kind, validation.reason
        try:
            with self.context.progress.paused_clock():
                scores = validation()
                return dict(self.context.group.from_first(lambda: scores))
        except (InputError, LostProcessError):
            raise
        except (ValueError, ArithmeticError, RuntimeError):
            if not self._is_divergence(validation.batch):
                raise
            validation.kind, validation.reason = kind, reason
            raise NonFiniteStep from None

    def _keep_if_best(self, bound: float | None) -> None:
        """Keep the parameters if their validation bound is the best one so far."""
        progress = self.context.progress
        if not self.context.ranks_parameters:
            return
        if bound is None or (progress.best_bound is not None and bound <= progress.best_bound):
            progress.stale += 1
            return
        progress.best_bound, progress.best_epoch, progress.stale = bound, progress.epoch + 1, 0
        self.snapshots.keep_best()

    def _record_epoch(self, numbers: Mapping[str, float | None], rate: float | dict[str, float]) -> None:
        context, progress = self.context, self.context.progress
        record: dict[str, Any] = {"epoch": progress.epoch, "step": progress.step, **numbers}
        if context.validation is not None and context.validation.kind == "objective":
            record["validation_of"] = "objective"
        record |= {"learning_rate": rate, "evaluations": progress.evaluations, "seconds": progress.update_seconds()}
        context.history.add(record)
        context.display.show_epoch(context.history.records[-1])

    def _call_callbacks(self) -> None:
        with self.context.progress.paused_clock():
            for callback in self.context.callbacks:
                if callback.on_epoch(self.context.history.records[-1], self.context.latent_model) is True:
                    self.context.progress.finished = "callback"
            self._share_changes_of_callbacks()

    def _share_changes_of_callbacks(self) -> None:
        """Copy the decisions and changes of the callbacks of the first process to all processes."""
        context, group = self.context, self.context.group
        if group.is_shared:
            finished, has_callbacks = group.from_first(lambda: [context.progress.finished, bool(context.callbacks)])
            context.progress.finished = finished
            if has_callbacks:
                copy_model_from_first(context.group, context.parameters)
