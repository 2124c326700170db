"""`TrainingContext`: the objects that a training consists of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pvae.batch import Batch
from pvae.callbacks.base import Callback, reacts_to_steps
from pvae.data import Splits, minibatches, steps_of_epoch
from pvae.data.labelled_batches import labelled_per_batch
from pvae.data.streams.stored_batch import StoredBatch
from pvae.objectives.base import Objective
from pvae.train.distributed.gradient_reduction import GradientReduction
from pvae.train.distributed.training_group import TrainingGroup
from pvae.train.history import History
from pvae.train.limits import evaluations_of_step
from pvae.train.optimisers import runs_own_code
from pvae.train.options import Options
from pvae.train.parameters import Parameters
from pvae.train.progress import TrainingDisplay
from pvae.train.progress_state import ProgressState
from pvae.train.signals import Interrupts
from pvae.train.step import Stepper
from pvae.train.validation import Validation

__all__ = ["TrainingContext"]

#: The number of steps between two readings of the loss on CUDA, because each reading waits for the device.
_STEPS_BETWEEN_LOSSES_ON_CUDA = 50


@dataclass(frozen=True)
class TrainingContext:
    """The objects of one training.

    Attributes:
        latent_model: any object with ``model`` and ``guide``.
        objective: the objective to be minimised.
        parameters: the trained tensors.
        optimiser: one torch optimiser over all trained tensors.
        schedule: the schedule of the learning rate, or None.
        stepper: the training step.
        splits: the data, on the device.
        validation: the validation score, or None.
        options: the checked options.
        progress: the counts and sums so far; the loop changes them.
        history: the records of the epochs.
        folder: the folder of the run, or None.
        callbacks: the callbacks, which are called at the start, after each epoch, at the end and on an error.
        display: the display of the progress.
        interrupts: the signals that the process has received.
        identity: checksums of data and options that a checkpoint records.
        group: the processes of the training.
        keeps_order: whether each batch holds all data in their own order, because parameters belong to positions.
    """

    latent_model: Any
    objective: Objective
    parameters: Parameters
    optimiser: torch.optim.Optimizer
    schedule: Any
    stepper: Stepper
    splits: Splits
    validation: Validation | None
    options: Options
    progress: ProgressState
    history: History
    folder: Path | None
    callbacks: tuple[Callback, ...]
    display: TrainingDisplay
    interrupts: Interrupts
    identity: dict[str, Any]
    group: TrainingGroup
    keeps_order: bool = False

    @cached_property
    def _step_callbacks(self) -> tuple[Callback, ...]:
        return tuple(filter(reacts_to_steps, self.callbacks))

    def call_after_step(self) -> None:
        """Call the callbacks that react to steps, and look for what they have changed."""
        if self._step_callbacks:
            with self.progress.paused_clock():
                for callback in self._step_callbacks:
                    callback.on_step(self.progress.step, self.parameters.named)
        if self._has_own_step_callbacks or runs_own_code(self.optimiser):
            self.stepper.refresh(within_epoch=True)

    @cached_property
    def _has_own_step_callbacks(self) -> bool:
        """Whether a callback of the user reacts to steps, and so may change the model within an epoch."""
        return any(not type(callback).on_step.__module__.startswith("pvae.") for callback in self._step_callbacks)

    @property
    def ranks_parameters(self) -> bool:
        """Whether the validation score decides which parameters are the best; otherwise they are the last ones."""
        return self.validation is not None and self.validation.ranks

    @property
    def steps_between_losses(self) -> int:
        """The number of steps from one check of the loss to the next."""
        parameter = next(iter(self.parameters.named.values()))
        return 1 if parameter.device.type == "cpu" else _STEPS_BETWEEN_LOSSES_ON_CUDA

    @property
    def steps_in_epoch(self) -> int | None:
        """The number of steps of an epoch; None if it is not known."""
        return steps_of_epoch(self.splits.train, self.options.batch_size, self.objective.labelled)

    @property
    def restarts_epochs(self) -> bool:
        """Whether a resumed training reads the data of the interrupted epoch from the start."""
        return isinstance(self.splits.train, StoredBatch) and self.splits.train.restarts_epochs

    @property
    def evaluations_of_next_step(self) -> int:
        """The decoder evaluations of the next step: particles times data; the last batch of an epoch may be smaller."""
        size, particles = self.splits.train.known_size, self.objective.num_particles
        full = evaluations_of_step(self.options, particles, size)
        left = 0 if size is None or self.objective.labelled else size - self.progress.seen
        return min(full, left * particles) if left > 0 else full

    def steps_left(self, seconds: float) -> float:
        """Return the number of steps that the training still takes by its options.

        Args:
            seconds: the time of a step.
        """
        options, progress = self.options, self.progress
        in_epoch = self.steps_in_epoch
        limits = [] if in_epoch is None else [in_epoch * options.epochs - progress.step]
        if options.max_steps is not None:
            limits.append(options.max_steps - progress.step)
        if options.max_seconds is not None:
            limits.append(int((options.max_seconds - progress.seconds) / max(seconds, 1e-9)))
        return float(max(0, min(limits, default=0)))

    def remaining_batches(self) -> Iterator[Batch]:
        """Return the batches of the current epoch that have had no step yet.

        Only the share of this process in each batch.
        """
        batches = minibatches(
            self.splits.train,
            self.options.batch_size,
            seed=self.options.seed,
            epoch=self.progress.epoch,
            start=self.progress.step_in_epoch,
            dynamic=self.splits.train_dynamic,
            mask=self.splits.train_mask,
            labelled=self.objective.labelled,
            keeps_order=self.keeps_order,
            share=(self.group.rank, self.group.count),
        )
        return batches if self.stepper.reduction is None else self._shares(batches, self.stepper.reduction)

    def _shares(self, batches: Iterator[Batch], reduction: GradientReduction) -> Iterator[Batch]:
        """Yield the shares of this process, each with its own seed of the random generators, and count their data."""
        size, done = self.options.batch_size, self.progress.step_in_epoch
        left = self._size_of_epoch - done * size
        for batch in self.group.seeded(batches, self.options.seed, self.progress.step):
            reduction.own_rows = self.group.share_size(min(size, left))
            left -= size
            yield batch

    @property
    def _size_of_epoch(self) -> int:
        """The number of data of an epoch; labelled data count several times if the objective repeats them."""
        train, size = self.splits.train, self.options.batch_size
        labelled = labelled_per_batch(train, size, self.objective.labelled)
        hidden = train.size if labelled == 0 else int((train["y"] < 0).sum())
        return hidden + labelled * -(-hidden // (size - labelled))
