"""Make the reduction of a training in several processes, and refuse what would differ from one process."""

from __future__ import annotations

from pvae.batch import Batch
from pvae.data import Splits
from pvae.data.streams.row_batch import RowBatch
from pvae.data.streams.stored_batch import StoredBatch
from pvae.errors import InputError
from pvae.train.computation import Computation
from pvae.train.distributed.check_shares import (
    find_batch_norms,
    floating_buffers,
    require_mean_of_shares,
    require_small_share,
)
from pvae.train.distributed.gradient_reduction import GradientReduction
from pvae.train.distributed.share_result import copy_model_from_first
from pvae.train.distributed.training_group import TrainingGroup
from pvae.train.options import Options
from pvae.train.signals import Interrupts

__all__ = ["make_reduction"]


def make_reduction(
    group: TrainingGroup,
    computation: Computation,
    splits: Splits,
    batch: Batch,
    options: Options,
    interrupts: Interrupts,
    *,
    keeps_order: bool,
) -> tuple[GradientReduction | None, list[str]]:
    """Return the reduction of the steps of a training, None for one process, and lines that are shown to the user.

    Args:
        group: the processes.
        computation: the computation of one step.
        splits: the data, on the device.
        batch: a batch of full size.
        options: the checked options.
        interrupts: the signals that this process has received.
        keeps_order: whether each batch holds all data in their order.

    Raises:
        InputError: for an option, data or an objective with which several processes would train in another way than one
            process.
    """
    if not group.is_shared:
        return None, []
    reason = _refusal(splits.train, batch, options, group.count, keeps_order=keeps_order)
    if reason:
        raise InputError(f"Training in {group.count} processes {reason}")
    copy_model_from_first(group, computation.parameters)
    last = splits.train.size % options.batch_size or batch.size
    with group.reported():
        require_small_share(computation, batch, max(1, min(last, batch.size) // group.count))
        require_mean_of_shares(computation, batch, group.count)
    least, most = batch.size // group.count, -(-batch.size // group.count)
    share = f"{least}" if least == most else f"{least} or {most}"
    notes = [f"note: {group.count} processes train together; each takes {share} of the {batch.size} data of a batch"]
    layers = len(find_batch_norms(computation))
    if layers:
        notes.append(
            f"note: {layers} batch normalisations use the data of each process alone, {share} of {batch.size}, and "
            "differ from those of one process; their running averages are averaged over the processes"
        )
    buffers = floating_buffers(computation.parameters.modules)
    return GradientReduction(group, list(buffers.values()), interrupts), notes


def _refusal(train: Batch, batch: Batch, options: Options, count: int, *, keeps_order: bool) -> str:
    """Return the need of a training in several processes that is not met; "" if all are met."""
    if isinstance(train, StoredBatch) and not isinstance(train, RowBatch):
        return (
            "needs data by number, so that the processes share each batch; a loader or an iterable data set chooses "
            "the batches itself. Give arrays, files or an indexed data set."
        )
    if isinstance(train, RowBatch) and train.varies:
        return "needs tensors; a collate function makes the batches. Train in one process."
    if keeps_order:
        return "cannot share parameters that belong to positions in the batch. Train in one process."
    if batch.size < count:
        return f"needs at least one datum per process in a batch; a batch has {batch.size}. Give a larger batch_size."
    if options.max_seconds is not None:
        return "cannot end by time, because their clocks differ. Give max_steps or epochs in place of max_seconds."
    if options.on_divergence == "rollback":
        return "cannot roll back after a divergence. Use on_divergence='stop', or one process."
    return ""
