"""A comparison's cells: what one is, where it lies, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["Cell", "Outcome"]


@dataclass(frozen=True)
class Cell:
    """One model trained by one objective from one seed.

    Attributes:
        model: name of the model.
        objective: name of the objective.
        seed: seed of its first parameters, its order of data and its draws.
        folder: its run folder; what was asked of it stands beside it in ``<folder>.json``.
        config: every option that decides its numbers; JSON-able.
    """

    model: str
    objective: str
    seed: int
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def label(self) -> str:
        """The cell's name for people."""
        return f"{self.model}, {self.objective}, seed {self.seed}"

    @property
    def record(self) -> Path:
        """The file that says what was asked of the cell."""
        return self.folder.with_name(self.folder.name + ".json")

    @property
    def evaluation(self) -> Path:
        """The file with its judgement; pointwise values lie beside it with the ending ``.safetensors``."""
        return self.folder / "evaluation.json"


@dataclass(frozen=True)
class Outcome:
    """What came of a cell: its scores, or why it failed.

    Attributes:
        cell: which one.
        scores: numbers of its training and judgement, as in ``evaluation.json``; empty where it failed.
        pointwise: a number per judged datum: ``log_evidence``, ``elbo`` (nats), ``khat``, ``ess``.
        failure: the reason in one line, or an empty string.
    """

    cell: Cell
    scores: Mapping[str, Any] = field(default_factory=dict)
    pointwise: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    failure: str = ""
