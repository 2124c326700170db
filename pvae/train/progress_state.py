"""`ProgressState`: the counts and running sums of a training, which a checkpoint holds besides tensors."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from pvae.accelerators import has_double
from pvae.train.encoding import decode, encode

__all__ = ["ProgressState"]

#: The number of steps between two copies of the numbers from a device without float64.
_MOST_WAITING = 100


def _place_of_sums(device: torch.device) -> torch.device:
    """Return the device of the sums in double precision: the device itself, or the CPU if it has no float64."""
    return device if has_double(device) else torch.device("cpu")


@dataclass
class ProgressState:
    """The counts and running sums of a training.

    Attributes:
        epoch: the number of completed epochs.
        step_in_epoch: the number of completed steps of the current epoch.
        step: the number of completed steps of all epochs.
        seen: the number of data that the steps of the current epoch have used.
        sums: for each number of a step, its sum over the data of the current epoch, in nats.
        seconds: the time spent in training without validation and callbacks, over all processes that took part in it.
        evaluations: the number of decoder evaluations of all steps: particles times data.
        best_bound: the best validation bound, in nats per datum; None before the first one.
        best_epoch: the epoch of the best validation bound.
        stale: the number of epochs since the best validation bound.
        finished: the reason why the training has ended; "" while it has not.
        rollbacks: the number of returns to the last good state after a divergence.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    seen: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    best_bound: float | None = None
    best_epoch: int = 0
    stale: int = 0
    finished: str = ""
    rollbacks: int = 0
    evaluations: int = 0

    def __post_init__(self) -> None:
        """Start without sums on the device, and start the clock."""
        self._names: tuple[str, ...] = ()
        self._totals: list[Tensor] = []
        self._waiting: list[tuple[tuple[Tensor, ...], int]] = []
        self.start_clock()

    def add_step(self, names: tuple[str, ...], numbers: tuple[Tensor, ...], size: int, particles: int = 1) -> None:
        """Count one step. The sums stay on the device, in double precision.

        Args:
            names: the names of the numbers.
            numbers: the numbers of the step, each of shape (), in nats per datum.
            size: the number of data of the step.
            particles: the number of draws of z per datum.
        """
        if not self._totals:
            self._names = names
            self._totals = [
                torch.tensor(self.sums.get(name, 0.0), dtype=torch.float64, device=_place_of_sums(number.device))
                for name, number in zip(names, numbers, strict=True)
            ]
        if numbers and self._totals[0].device != numbers[0].device:
            self._waiting.append((numbers, size))
            if len(self._waiting) >= _MOST_WAITING:
                self._add_waiting()
        else:
            for total, number in zip(self._totals, numbers, strict=True):
                total.add_(number, alpha=size)
        self.seen += size
        self.evaluations += size * particles
        self.step_in_epoch += 1
        self.step += 1

    def means(self) -> dict[str, float]:
        """Return the mean of each number over the data of this epoch, in nats per datum."""
        self._read_sums()
        return {name: total / max(self.seen, 1) for name, total in self.sums.items()}

    def next_epoch(self) -> None:
        """Count one epoch, and start the sums of the next one."""
        self.epoch += 1
        self.step_in_epoch = self.seen = 0
        self.sums, self._totals, self._waiting = {}, [], []

    def restart_epoch(self) -> None:
        """Count the steps of the current epoch from 0 again, and start its sums."""
        self.step_in_epoch = self.seen = 0
        self.sums, self._totals, self._waiting = {}, [], []

    def start_clock(self) -> None:
        """Measure time from now on; the time since the last update is not added to `seconds`."""
        self._clock = time.monotonic()

    def update_seconds(self) -> float:
        """Add the time since the last update to `seconds`; return `seconds`, rounded to milliseconds."""
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now
        return round(self.seconds, 3)

    @contextmanager
    def paused_clock(self) -> Iterator[None]:
        """Do not add the time of the block to `seconds`."""
        self.update_seconds()
        try:
            yield
        finally:
            self.start_clock()

    def record(self) -> dict[str, Any]:
        """Return all counts and sums as JSON values, for a checkpoint."""
        self._read_sums()
        return {**asdict(self), "sums": [[name, encode(total)] for name, total in self.sums.items()]}

    def restore(self, record: Mapping[str, Any]) -> None:
        """Set all counts and sums to those that `record` returned."""
        for name in self.__dataclass_fields__:
            # Checkpoints of earlier versions have no number of evaluations.
            setattr(self, name, record.get(name, 0) if name == "evaluations" else record[name])
        self.sums = {name: decode(total) for name, total in record["sums"]}
        self._names, self._totals, self._waiting = (), [], []

    def _add_waiting(self) -> None:
        """Add the numbers of the steps that are still on the device, by one copy."""
        if not self._waiting:
            return
        steps = torch.stack([torch.stack(numbers) for numbers, _ in self._waiting]).cpu().double()
        sizes = torch.tensor([size for _, size in self._waiting], dtype=torch.float64)
        for total, addend in zip(self._totals, sizes @ steps, strict=True):
            total.add_(addend)
        self._waiting = []

    def _read_sums(self) -> None:
        """Copy the sums from the device to `sums`."""
        self._add_waiting()
        if self._totals:
            self.sums = {name: float(total) for name, total in zip(self._names, self._totals, strict=True)}
