"""The loop over epochs and steps: records, checkpoints, early stopping, interruption, divergence."""

from __future__ import annotations

import math
import time
from typing import Any

from pvae.batch import Batch
from pvae.data import minibatches, steps_of_epoch
from pvae.errors import DivergenceError, InputError
from pvae.train import checkpoint, training_state
from pvae.train.checkpoint import Snapshot
from pvae.train.divergence import Culprit, first_culprit
from pvae.train.optimisers import rates, step_schedule
from pvae.train.parameters import all_finite
from pvae.train.progress_state import Position
from pvae.train.training_context import Setting

__all__ = ["Loop"]

_STEPS_BETWEEN_LOOKS = 50  # on a device that the loss would have to be fetched from
_STEPS_BETWEEN_RECHECKS = 20  # at least, between looks at whether a graph still agrees with the programs
_MOST_ROLLBACKS = 10


class _Diverged(Exception):
    """A number of the step is not finite."""


class Loop:
    """Trains until the epochs are done, or something ends it earlier."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.position = Position()
        self.parameters = setting.stepper.computation.parameters
        self.optimiser = setting.stepper.optimiser
        self.good: Snapshot | None = None
        self.best: Snapshot | None = None
        self._best_written = True
        self._next_look = _STEPS_BETWEEN_RECHECKS
        self._begun = self._saved = time.monotonic()
        self._looks = 1 if next(iter(self.parameters.named.values())).device.type == "cpu" else _STEPS_BETWEEN_LOOKS

    def resume(self, snapshot: Snapshot) -> None:
        """Continue from a snapshot."""
        training_state.put_back(self.parameters, self.optimiser, self.setting.schedule, snapshot)
        self.setting.history.cut(snapshot.state)
        self.position = Position.of(snapshot.state)
        self.good = snapshot

    def run(self) -> None:
        """Train. On return the model holds the last parameters, and the last checkpoint is written."""
        options, position = self.setting.options, self.position
        if self.good is None:
            self.save()
        if position.finished and not self._goes_on():
            return
        position.finished = ""
        steps = steps_of_epoch(self.setting.splits.train, options.batch_size, self._labelled)
        self.setting.progress.start(position.epoch, options.epochs, steps)
        self._begun = time.monotonic()
        try:
            while not self._trained():
                self._diverged()
        finally:
            self.setting.progress.close()
        if self.setting.interrupts.pending:
            self.setting.interrupts.stop()

    def _goes_on(self) -> bool:
        """Whether a finished run was asked for more epochs or steps than it has."""
        options, position = self.setting.options, self.position
        if position.finished == "max_steps":
            return options.max_steps is None or position.step < options.max_steps
        return position.finished == "epochs" and position.epoch < options.epochs

    def _trained(self) -> bool:
        """Train to the end, and save; return whether that went well."""
        try:
            while not self.position.finished and self.position.epoch < self.setting.options.epochs:
                self._epoch()
            self.position.finished = self.position.finished or "epochs"
            self.save()
        except _Diverged:
            return False
        return True

    def _batches(self) -> Any:
        options, splits = self.setting.options, self.setting.splits
        return minibatches(
            splits.train,
            options.batch_size,
            seed=options.seed,
            epoch=self.position.epoch,
            start=self.position.step_in_epoch,
            dynamic=splits.train_dynamic,
            mask=splits.train_mask,
            labelled=self._labelled,
        )

    @property
    def _labelled(self) -> float:
        """The least part of a batch that the objective wants of labelled data."""
        return self.parameters.objective.labelled

    def _epoch(self) -> None:
        self.setting.stepper.refresh()
        checked = not self.setting.callbacks and self.position.step < self._next_look
        for batch in self._batches():
            if not checked:
                self.setting.stepper.recheck(batch, expected_to_change=bool(self.setting.callbacks))
                self._next_look = self.position.step + _STEPS_BETWEEN_RECHECKS
                checked = True
            self._step(batch)
            if self.position.finished:
                return
        self._end_epoch()

    def _step(self, batch: Batch) -> None:
        position, setting = self.position, self.setting
        try:
            numbers = setting.stepper(batch)
        except InputError:
            raise
        except (ValueError, ArithmeticError, RuntimeError):
            # Pyro's validation and torch's factorisations stop at what is not finite, in an eager step
            if not self._is_divergence(batch):
                raise
            raise _Diverged from None
        position.add(setting.stepper.names, numbers, batch.size)
        if position.step % self._looks == 0 and not math.isfinite(numbers[0].item()):
            raise _Diverged
        setting.progress.tick(position.epoch, position.step_in_epoch, numbers[0].item)
        if setting.interrupts.pending:
            self.save()
            setting.interrupts.stop()
        if setting.options.max_steps is not None and position.step >= setting.options.max_steps:
            position.finished = "max_steps"
        if time.monotonic() - self._saved > setting.options.checkpoint_seconds:
            self.save()

    def _is_divergence(self, batch: Batch) -> bool:
        """Whether a step that raised an error met a non-finite tensor first."""
        try:
            return first_culprit(self.setting.stepper, batch) is not None
        except Exception:  # the program fails for a reason of its own, which is the one to be told
            return False

    def _end_epoch(self) -> None:
        position, setting = self.position, self.setting
        means = position.means()
        if not math.isfinite(means["loss"]) or not all_finite(list(self.parameters.named.values())):
            raise _Diverged
        rate = rates(self.optimiser)
        validation = setting.validation() if setting.validation is not None else {}
        bound = validation.get("validation_bound")
        self._judge(bound)
        step_schedule(setting.schedule, bound if setting.validation is not None else -means["loss"])
        position.next_epoch()
        record: dict[str, Any] = {"epoch": position.epoch, "step": position.step, **means, **validation}
        if setting.validation is not None and setting.validation.kind == "objective":
            record["validation_of"] = "objective"
        record |= {"learning_rate": rate, "seconds": self._seconds()}
        setting.history.add(record)
        setting.progress.record(setting.history.records[-1])
        self._call_back(setting.history.records[-1])
        self.parameters.objective.diagnose()
        patience = setting.options.patience
        if patience is not None and position.stale >= patience:
            position.finished = "patience"
        if setting.folder is None or time.monotonic() - self._saved > setting.options.checkpoint_seconds:
            self.save()

    def _judge(self, bound: float | None) -> None:
        """Keep the parameters where the validation bound is the best so far."""
        position = self.position
        if not self.setting.ranked:
            return
        if bound is None or (position.best_bound is not None and bound <= position.best_bound):
            position.stale += 1
            return
        position.best_bound, position.best_epoch, position.stale = bound, position.epoch + 1, 0
        self.best, self._best_written = self._snapshot(), False

    def _call_back(self, record: dict[str, Any]) -> None:
        for callback in self.setting.callbacks:
            if callback(record, self.parameters.latent_model) is True:
                self.position.finished = "callback"

    def _seconds(self) -> float:
        """Time in training, over all sittings."""
        now = time.monotonic()
        self.position.seconds += now - self._begun
        self._begun = now
        return round(self.position.seconds, 3)

    def _snapshot(self) -> Snapshot:
        state = {**self.position.record(), **self.setting.history.mark(), **self.setting.identity}
        return training_state.take(self.parameters, self.optimiser, self.setting.schedule, state)

    def save(self) -> None:
        """Keep the present state as the last good one, and write it where there is a folder."""
        if not all_finite(list(self.parameters.named.values())):
            raise _Diverged
        self._seconds()
        self.good = self._snapshot()
        self._saved = time.monotonic()
        folder = self.setting.folder
        if folder is None:
            return
        if self.best is not None and not self._best_written:
            checkpoint.write(folder, "best", self.best)
            self._best_written = True
        checkpoint.write(folder, "last", self.good)
        if not self.setting.ranked and self.position.finished:
            checkpoint.write(folder, "best", self.good)

    def _diverged(self) -> None:
        """Go back to the last good state; name the culprit; go on with half the learning rate, or stop."""
        failed = self.position.step
        culprit, step = self._replay(failed)
        self._go_back()
        halved = self.position.rollbacks < _MOST_ROLLBACKS and self.setting.options.on_divergence == "rollback"
        if not halved:
            raise _error(culprit, step, self.position, self.setting)
        self.position.rollbacks += 1
        for group in self.optimiser.param_groups:
            group["lr"] = group["lr"] * 0.5
        if hasattr(self.setting.schedule, "base_lrs"):
            self.setting.schedule.base_lrs = [rate * 0.5 for rate in self.setting.schedule.base_lrs]
        rate = rates(self.optimiser)
        shown = f"{rate:g}" if isinstance(rate, float) else ", ".join(f"{name} {each:g}" for name, each in rate.items())
        said = f"step {step}: {culprit} is not finite; back to step {self.position.step}, learning rate {shown}"
        self.setting.progress.note(said)
        event = {"event": "rollback", "diverged_at": step, "culprit": str(culprit), "learning_rate": rate}
        self.setting.history.add({**event, "step": self.position.step, "seconds": self._seconds()})
        self.save()

    def _go_back(self) -> None:
        if self.good is None:
            raise RuntimeError("There is no good state to go back to.")
        seconds = self.position.seconds
        self.resume(self.good)
        self.position.seconds = seconds
        if self.setting.folder is not None and not self._best_written:
            self.best, self._best_written = None, True  # it came after the good state; the one before is on disk

    def _replay(self, failed: int) -> tuple[Culprit, int]:
        """Take the steps since the last good state again, and look closely at those around the failed one."""
        self._go_back()
        setting = self.setting
        closely, last = failed - self._looks - 1, failed + self._looks
        while self.position.epoch < setting.options.epochs and self.position.step <= last:
            for batch in self._batches():
                culprit = first_culprit(setting.stepper, batch) if self.position.step >= closely else None
                if culprit is not None:
                    return culprit, self.position.step + 1
                setting.stepper(batch)
                self.position.step += 1
                if self.position.step > last:
                    break
            step_schedule(setting.schedule, None)
            self.position.next_epoch()
        bad = [name for name, each in self.parameters.named.items() if not all_finite([each])]
        kind, said = ("parameter" if bad else ""), "after the last step"
        return Culprit("", bad[0] if bad else "loss", kind, said), failed


def _error(culprit: Culprit, step: int, position: Position, setting: Setting) -> DivergenceError:
    kept = f"{setting.folder / 'last'} holds" if setting.folder is not None else "the model holds"
    return DivergenceError(
        f"Training diverged at step {step}: {culprit} is not finite. {kept} the last good state, of step "
        f"{position.step}. Try a lower learning_rate, clip=1.0, or on_divergence='rollback'.",
        site=culprit.site,
        tensor=culprit.tensor,
        step=step,
    )
