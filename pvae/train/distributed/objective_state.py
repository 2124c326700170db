"""The state of an objective in several processes, which is updated by means over the data of all processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from pvae.objectives.kl.weighted_kl import StatefulObjective

__all__ = ["advance_objective", "without_own_advances"]


@contextmanager
def without_own_advances(objective: Any, is_shared: bool) -> Iterator[None]:
    """Inside a block, do not let the state of an objective change by the data of one process.

    Args:
        objective: the objective.
        is_shared: whether there are several processes; otherwise nothing changes.
    """
    if not is_shared or not isinstance(objective, StatefulObjective) or not objective.advances:
        yield
        return
    objective.advances = False
    try:
        yield
    finally:
        objective.advances = True


def advance_objective(objective: Any, means: Mapping[str, Tensor]) -> None:
    """Change the state of an objective after one step in all processes.

    Args:
        objective: the objective, inside `without_own_advances`.
        means: the numbers of the step, means over the data of all processes, in nats per datum.
    """
    if isinstance(objective, StatefulObjective) and objective.training:
        objective.advance(means)
