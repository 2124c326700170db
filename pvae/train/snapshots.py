"""`Snapshots`: the last good state and the best state of a training, in memory and in the folder of the run."""

from __future__ import annotations

import time
from dataclasses import replace

from pvae.callbacks.base import load_states, states
from pvae.train import checkpoint
from pvae.train.checkpoint import Snapshot
from pvae.train.divergence import NonFiniteStep
from pvae.train.parameters import all_finite
from pvae.train.training_context import TrainingContext
from pvae.train.training_state import capture_training, restore_training

__all__ = ["Snapshots"]


class Snapshots:
    """Takes and restores the snapshots of a training.

    Args:
        context: the objects of the training.

    Attributes:
        good: the last saved state; all its parameters are finite. None before the first one.
        best: the state with the best validation bound; None before the first one.
    """

    def __init__(self, context: TrainingContext) -> None:
        self.context = context
        self.good: Snapshot | None = None
        self.best: Snapshot | None = None
        self._best_is_written = True
        self._time_of_save = time.monotonic()

    @property
    def save_is_due(self) -> bool:
        """Whether the last save is longer ago than the option ``checkpoint_seconds``."""
        return time.monotonic() - self._time_of_save > self.context.options.checkpoint_seconds

    def keep_best(self) -> None:
        """Keep the current state as the best one; the next save writes it."""
        self.best, self._best_is_written = self._capture(), False

    def save(self) -> None:
        """Keep the current state as the last good one, and write it if the run has a folder.

        Raises:
            NonFiniteStep: if a parameter is not finite.
            OSError: if the checkpoint cannot be written.
        """
        context = self.context
        if not all_finite(list(context.parameters.named.values())):
            raise NonFiniteStep
        context.progress.update_seconds()
        self.good = self._capture()
        self._time_of_save = time.monotonic()
        if context.folder is None:
            return
        if self.best is not None and not self._best_is_written:
            checkpoint.write(context.folder, "best", self.best)
            self._best_is_written = True
        checkpoint.write(context.folder, "last", self.good)
        if context.progress.finished and not context.ranks_parameters:
            checkpoint.write(context.folder, "best", self.good)

    def restore(self, snapshot: Snapshot) -> None:
        """Set the training to the state of a snapshot, which becomes the last good one."""
        context = self.context
        restore_training(context.parameters, context.optimiser, context.schedule, snapshot)
        load_states(context.callbacks, snapshot.training)
        context.history.cut(snapshot.state)
        context.progress.restore(snapshot.state)
        context.stepper.keep(snapshot.state)
        self.good = snapshot

    def restore_good(self) -> None:
        """Set the training to the last good state; the time spent since then still counts.

        Raises:
            RuntimeError: if `save` has not been called.
        """
        if self.good is None:
            raise RuntimeError("A return to a good state needs a snapshot; none was taken. Call `save` first.")
        seconds = self.context.progress.seconds
        self.restore(self.good)
        self.context.progress.seconds = seconds
        if self.context.folder is not None and not self._best_is_written:
            # this best state is newer than the good state; the previous best state is in the folder
            self.best, self._best_is_written = None, True

    def _capture(self) -> Snapshot:
        context = self.context
        progress = {
            **context.progress.record(),
            **context.history.mark(),
            **context.identity,
            **context.stepper.record(),
        }
        snapshot = capture_training(context.parameters, context.optimiser, context.schedule, progress)
        tensors = {name: tensor.detach().clone() for name, tensor in states(context.callbacks).items()}
        return replace(snapshot, training={**snapshot.training, **tensors})
