"""Try the last batch of an epoch before training, because the programs may refuse a batch of its size."""

from __future__ import annotations

from pvae.batch import Batch
from pvae.data import Splits, minibatches, steps_of_epoch
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError
from pvae.train.computation import Computation
from pvae.train.graph.preserve import preserve_step
from pvae.train.options import Options
from pvae.user_code import find_user_place

__all__ = ["require_last_batch"]

#: The number of other batch sizes that are tried, to suggest one in the error.
_TRIES = 8


def require_last_batch(computation: Computation, splits: Splits, options: Options) -> None:
    """Run a step on the last batch of an epoch without an update, if it is smaller than the others.

    Random generators, buffers and the Python values of the programs stay as they are.

    Args:
        computation: the computation of one step.
        splits: the data, on the device.
        options: the options of the training.

    Raises:
        InputError: if the step fails because of the size of the batch.
    """
    trial = _TrialSteps(computation, splits, options)
    batch = trial.last_batch()
    if batch is None:
        return
    # If the programs run on other data of this size, the values are the cause, and training reports it.
    error = trial.failure(batch) and trial.failure(trial.first_data(batch.size))
    if error is None:
        return
    size, remainder = options.batch_size, batch.size
    place = find_user_place(error)
    raise InputError(
        f"The batches need sizes that the programs accept; the last batch of each epoch has {_data(remainder)} "
        f"({_data(splits.train.size)} in batches of {size}), and the step fails on it"
        f"{'' if place is None else f' at {place}'}: {type(error).__name__}: {_in_one_line(error)}. "
        f"{trial.advice(remainder)}"
    ) from error


def _in_one_line(error: Exception) -> str:
    """Return an error's message without the table of shapes that Pyro appends."""
    return " ".join(str(error).partition("Trace Shapes:")[0].split()).rstrip(".")


def _data(count: int) -> str:
    return "1 datum" if count == 1 else f"{count} data"


class _TrialSteps:
    """Steps without an update, on batches of chosen sizes.

    Args:
        computation: the computation of one step.
        splits: the data, on the device.
        options: the options of the training.
    """

    def __init__(self, computation: Computation, splits: Splits, options: Options) -> None:
        self.computation, self.splits, self.options = computation, splits, options
        self.labelled: float = computation.objective.labelled

    def last_batch(self) -> Batch | None:
        """Return the last batch of the first epoch; None if it has full size, or training does not take it."""
        options, train = self.options, self.splits.train
        steps = steps_of_epoch(train, options.batch_size, self.labelled)
        if steps is None:
            return None
        is_taken = steps > 1 and options.epochs > 0 and (options.max_steps is None or options.max_steps >= steps)
        if not is_taken:
            return None
        with preserve_step(self.computation.parameters):
            batch = next(
                minibatches(
                    train,
                    options.batch_size,
                    seed=options.seed,
                    epoch=0,
                    start=steps - 1,
                    dynamic=self.splits.train_dynamic,
                    mask=self.splits.train_mask,
                    labelled=self.labelled,
                ),
                None,
            )
        return batch if batch is not None and batch.size < options.batch_size else None

    def first_data(self, size: int) -> Batch:
        """Return the first data as a batch; the check before training has run on them."""
        batch = self.splits.train.take(slice(0, size))
        return batch.replace(x=batch.x.round()) if self.splits.train_dynamic else batch

    def failure(self, batch: Batch) -> Exception | None:
        """Return the error of a step on a batch, or None."""
        arguments = self.computation.programs.arguments(batch)
        try:
            with preserve_step(self.computation.parameters):
                for player in self.computation.parameters.players:
                    self.computation(arguments, player)
        except Exception as error:  # a program may raise any error
            return error
        return None

    def advice(self, remainder: int) -> str:
        """Return what the user can do about a last batch of this size."""
        if isinstance(self.splits.train, StoredBatch) and self.splits.train.own_batch_size is not None:
            return "Make the loader with drop_last=True, or with a batch_size that leaves no small batch."
        leave_out = f"leave {_data(remainder)} out of the training data, so that all batches have the same size"
        size = self._working_size(remainder)
        return f"Use batch_size={size}, or {leave_out}." if size is not None else f"To go on, {leave_out}."

    def _working_size(self, remainder: int) -> int | None:
        """Return the nearest batch size with which each batch of an epoch works; None if no tried size works."""
        size, count = self.options.batch_size, self.splits.train.size
        if self.labelled:  # the number of data in an epoch then depends on the batch size
            return None
        near = sorted(range(max(1, size // 2), min(2 * size, count) + 1), key=lambda other: (abs(other - size), -other))
        tries = [other for other in near if count % other != remainder and other != size][:_TRIES]
        return next((other for other in tries if self._works(other) and self._works(count % other)), None)

    def _works(self, size: int) -> bool:
        return size == 0 or self.failure(self.first_data(size)) is None
