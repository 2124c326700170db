"""The equal budget of all trainings of a comparison: training time, or decoder evaluations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pvae.errors import InputError

__all__ = ["Budget", "parse_budget"]

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_COUNTS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_TIME = re.compile(r"([0-9.]+) ?(s|min|h)")
_EVALUATIONS = re.compile(r"([0-9.]+)([kMG]?)[- ]evaluations")
#: The number of epochs of a training that is limited only by time.
_MANY_EPOCHS = 1_000_000


@dataclass(frozen=True)
class Budget:
    """A budget for each training.

    Attributes:
        text: the budget as it was given, such as ``"60s"`` or ``"2M-evaluations"``.
        seconds: the training time in seconds; None if the budget is a number of evaluations.
        evaluations: the number of decoder evaluations; None if the budget is a time.
    """

    text: str
    seconds: float | None = None
    evaluations: int | None = None

    def fit_options(self, training_data: int | None) -> dict[str, Any]:
        """Return the options of `pvae.fit` for the budget, with more epochs than the budget allows.

        Args:
            training_data: the number of training data; None if it is not known.
        """
        if self.seconds is not None:
            return {"max_seconds": self.seconds, "epochs": _MANY_EPOCHS}
        most = self.evaluations or 0
        # A step with one particle needs the fewest evaluations.
        epochs = _MANY_EPOCHS if not training_data else -(-most // training_data) + 1
        return {"max_evaluations": most, "epochs": epochs}


def parse_budget(text: Any) -> Budget:
    """Return the budget that a text names.

    Args:
        text: a time, such as ``"60s"``, ``"5min"`` or ``"2h"``; or a number of decoder evaluations, such as
            ``"2M-evaluations"``.

    Raises:
        InputError: for another text.
    """
    stripped = text.strip() if isinstance(text, str) else ""
    try:
        if time := _TIME.fullmatch(stripped):
            seconds = float(time[1]) * _SECONDS[time[2]]
            if seconds > 0:
                return Budget(stripped, seconds=seconds)
        if count := _EVALUATIONS.fullmatch(stripped):
            evaluations = round(float(count[1]) * _COUNTS[count[2]])
            if evaluations > 0:
                return Budget(stripped, evaluations=evaluations)
    except ValueError:  # two decimal points
        pass
    raise InputError(
        "budget needs a training time, such as 60s, 5min or 2h, or a number of decoder evaluations, such as "
        f"2M-evaluations; got {text!r}."
    )
