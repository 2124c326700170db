"""`GradientReduction`: the numbers and gradients of a step of all processes, summed once for each update."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pvae.errors import LostProcessError
from pvae.train.distributed.sums import Sums, make_sums
from pvae.train.distributed.training_group import TrainingGroup
from pvae.train.graph.trace import Outputs
from pvae.train.signals import Interrupts

__all__ = ["GradientReduction"]

#: The numbers after the gradients and buffers: rows, failed processes, processes with SIGINT, processes with SIGTERM.
_FLAGS = 4
#: Buffers that agree up to this number of units in the last place keep their own bits.
_ULPS = 8


@dataclass(frozen=True)
class _Space:
    """The memory for the sums of one parameter group, which is used in each step.

    Attributes:
        sums: the memory for the values and their sums, and for the flags.
        shapes: the shapes of the numbers, gradients and buffers.
        flags: the number of flags.
    """

    sums: Sums
    shapes: list[torch.Size]
    flags: int
    _views: dict[int, list[Tensor]] = field(default_factory=dict)

    def views(self, values: Tensor) -> list[Tensor]:
        """Return the parts of memory of the sums, in the shapes of the numbers, gradients and buffers.

        Args:
            values: ``sums.own`` or ``sums.total``, shape (elements,), which lie at few places; views of each are kept.
        """
        place = values.data_ptr()
        if place not in self._views:
            parts = values.split([shape.numel() for shape in self.shapes])
            self._views[place] = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return self._views[place]


class GradientReduction:
    """Averages the numbers, gradients and buffers of a step over the processes, weighted by their numbers of data.

    The numbers and gradients of each process are means over its own data, so the weighted mean is the mean over the
    whole batch. A process without data in a small batch computes a step with weight 0.

    Args:
        group: the processes.
        buffers: the floating-point buffers that steps may change.
        interrupts: the signals that this process has received.

    Attributes:
        own_rows: the number of data of this process in the next step.
        rows: the number of data of all processes in the last step.
        stop: the number of a signal that a process has received; 0 if there was none. It is the same in all processes.
    """

    def __init__(self, group: TrainingGroup, buffers: Sequence[Tensor], interrupts: Interrupts) -> None:
        self.group, self.buffers, self.interrupts = group, list(buffers), interrupts
        self.own_rows = self.rows = self.stop = 0
        self._spaces: dict[str, _Space] = {}

    @contextmanager
    def reported(self, player: str) -> Iterator[None]:
        """Tell the other processes if a block raises an error, so that none of them waits.

        Args:
            player: the parameter group that the block computes.
        """
        try:
            yield
        except Exception:
            self._report_failure(player)
            raise

    def mean(self, player: str, outputs: Outputs, parameters: Sequence[Tensor]) -> Outputs:
        """Return the mean over the data of all processes; buffers are set to it in place.

        Args:
            player: the parameter group that is updated.
            outputs: the numbers, each of shape (), and then the gradient of each parameter or None.
            parameters: the parameters of the gradients.

        Raises:
            LostProcessError: if another process has failed, has ended, or does not answer in time.
        """
        count = len(outputs) - len(parameters)
        likes: list[Tensor] = [
            *(number for number in outputs[:count] if number is not None),
            *parameters,
            *self.buffers,
        ]
        space = self._agree(player, likes, len(outputs))
        if space.shapes != [like.shape for like in likes]:
            self._report_failure(player)
            raise LostProcessError("Training in several processes needs the same parameters at each step; one is new.")
        values = [*outputs, *self.buffers]
        self._fill(space, values)
        has_value = [float(value is not None and self.own_rows > 0) for value in outputs]
        flags = [*has_value, float(self.own_rows), 0.0, *self._own_signals()]
        numbers = space.sums.exchange(flags)
        self._read_flags(numbers[-_FLAGS:])
        space.sums.finish(self.rows)
        # the numbers are copied because the next step writes into the same memory; the gradients are used before
        means = [
            view.to(like.dtype, copy=place < count)
            for place, (view, like) in enumerate(zip(space.views(space.sums.total), likes, strict=True))
        ]
        self._set_buffers(means[len(outputs) :])
        return tuple(mean if has else None for mean, has in zip(means, numbers, strict=False))[: len(outputs)]

    def _fill(self, space: _Space, values: Sequence[Tensor | None]) -> None:
        """Write tensors times the number of own data into the memory of this process; zeros where there is none."""
        with torch.no_grad():
            for view, value in zip(space.views(space.sums.own), values, strict=True):
                if value is None or not self.own_rows:
                    view.zero_()
                elif value.dtype == view.dtype:
                    torch.mul(value.detach(), self.own_rows, out=view)
                else:  # the product could overflow in a smaller number format
                    view.copy_(value.detach()).mul_(self.own_rows)

    def _agree(self, player: str, likes: Sequence[Tensor], outputs: int) -> _Space:
        """Return the memory for the sums of a parameter group; its length must be the same in all processes."""
        known = self._spaces.get(player)
        if known is not None:
            return known
        is_double = any(like.dtype == torch.float64 for like in likes[: len(likes) - len(self.buffers)])
        dtype = torch.float64 if is_double else torch.float32
        device, shapes = likes[-1].device, [like.shape for like in likes]
        elements = sum(shape.numel() for shape in shapes)
        self._exchange_lengths(device, elements + outputs + _FLAGS)
        sums = make_sums(self.group, elements, outputs + _FLAGS, dtype, device)
        space = self._spaces[player] = _Space(sums, shapes, outputs + _FLAGS)
        return space

    def _exchange_lengths(self, device: torch.device, length: int) -> None:
        """Raise LostProcessError unless all processes have the same length; a process that has failed sends 0."""
        lengths = torch.zeros(self.group.count, dtype=torch.float64, device=device)
        lengths[self.group.rank] = length
        found = self.group.sum(lengths).tolist()
        if 0 in found and length:
            raise _failure(found.index(0))
        if len(set(found)) > 1 and length:
            raise LostProcessError(
                "Training in several processes needs the same parameters and numbers of a step in each of them; they "
                f"have {', '.join(f'{size:.0f}' for size in found)} values. Make the same model in each process."
            )

    def _report_failure(self, player: str) -> None:
        try:
            if player not in self._spaces:
                self._exchange_lengths(self.group.device, 0)
                return
            space = self._spaces[player]
            failed = [0.0] * space.flags
            failed[-_FLAGS + 1] = 2.0**self.group.rank if self.group.rank < 20 else 2.0**20
            space.sums.exchange(failed)
        except LostProcessError:
            return  # the error of this process is shown

    def _own_signals(self) -> tuple[float, float]:
        pending = self.interrupts.pending
        return float(pending == signal.SIGINT), float(pending == signal.SIGTERM)

    def _read_flags(self, flags: Sequence[float]) -> None:
        rows, failed, interrupted, terminated = flags
        if failed:
            raise _failure(int(failed).bit_length() - 1)
        self.rows = round(rows)
        if interrupted or terminated:
            self.stop = signal.SIGTERM if terminated else signal.SIGINT
            self.interrupts.pending = self.stop

    def _set_buffers(self, means: Sequence[Tensor]) -> None:
        """Set buffers to their means where they differ; a constant buffer keeps its bits."""
        with torch.no_grad():
            for buffer, mean in zip(self.buffers, means, strict=True):
                differs = (mean - buffer).abs() > _ULPS * torch.finfo(torch.float32).eps * buffer.abs()
                buffer.copy_(torch.where(differs, mean, buffer))


def _failure(rank: int) -> LostProcessError:
    return LostProcessError(
        f"Process {rank} of this training has failed in a step, and all processes end. See the message of that process."
    )
