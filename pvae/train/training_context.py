"""What a training is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvae.data import Splits
from pvae.train.history import History
from pvae.train.options import Options
from pvae.train.progress import Silent
from pvae.train.signals import Interrupts
from pvae.train.step import Stepper
from pvae.train.validation import Validation

__all__ = ["Setting"]


@dataclass(frozen=True)
class Setting:
    """What a training is made of.

    Attributes:
        options: see `pvae.fit`.
        splits: the data, on the device.
        stepper: takes one step.
        schedule: of the learning rate, or None.
        validation: gives the validation bound, or None.
        history: the records.
        folder: of the run, or None.
        callbacks: called after each epoch.
        progress: the display.
        interrupts: says whether to stop.
        identity: what a checkpoint records to know its run again.
    """

    options: Options
    splits: Splits
    stepper: Stepper
    schedule: Any
    validation: Validation | None
    history: History
    folder: Path | None
    callbacks: Sequence[Callable[..., Any]]
    progress: Silent
    interrupts: Interrupts
    identity: dict[str, Any]

    @property
    def ranked(self) -> bool:
        """Whether the validation bound says which parameters are the best; else the last ones are kept as such."""
        return self.validation is not None and self.validation.ranks
