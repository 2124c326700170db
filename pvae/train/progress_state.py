"""How far a training has come: what a checkpoint holds beside tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from pvae.train.encoding import decode, encode

__all__ = ["Position"]


@dataclass
class Position:
    """Counts and running sums.

    Attributes:
        epoch: epochs completed.
        step_in_epoch: steps done of the present epoch.
        step: steps done in all.
        seen: data seen in the present epoch.
        sums: the present epoch's numbers, each times the data of its step.
        seconds: time spent in training so far.
        best_bound: the best validation bound so far, or None.
        best_epoch: the epoch it came from.
        stale: epochs since then.
        finished: why the training ended, or an empty string.
        rollbacks: how often divergence was met by half the learning rate.
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

    def __post_init__(self) -> None:
        self._totals: list[Tensor] = []
        self._names: tuple[str, ...] = ()

    def add(self, names: tuple[str, ...], numbers: tuple[Tensor, ...], size: int) -> None:
        """Count one step on `size` data. Sums stay on the device, in double precision."""
        if not self._totals:
            self._names = names
            self._totals = [
                torch.tensor(self.sums.get(name, 0.0), dtype=torch.float64, device=each.device)
                for name, each in zip(names, numbers, strict=True)
            ]
        for total, each in zip(self._totals, numbers, strict=True):
            total.add_(each, alpha=size)
        self.seen += size
        self.step_in_epoch += 1
        self.step += 1

    def means(self) -> dict[str, float]:
        """Return the mean of each number over the data seen in this epoch."""
        self._settle()
        return {name: total / max(self.seen, 1) for name, total in self.sums.items()}

    def next_epoch(self) -> None:
        """Begin another epoch."""
        self.epoch += 1
        self.step_in_epoch = self.seen = 0
        self.sums, self._totals = {}, []

    def record(self) -> dict[str, Any]:
        """Return everything as a checkpoint holds it."""
        self._settle()
        return {**asdict(self), "sums": [[name, encode(total)] for name, total in self.sums.items()]}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Position:
        """Return the position that a checkpoint holds."""
        held = {name: state[name] for name in cls.__dataclass_fields__}
        return cls(**{**held, "sums": {name: decode(total) for name, total in held["sums"]}})

    def _settle(self) -> None:
        if self._totals:
            self.sums = {name: float(total) for name, total in zip(self._names, self._totals, strict=True)}
