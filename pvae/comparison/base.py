"""A cell of a comparison (one training and its evaluation), and the outcome of a cell."""

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
        seed: seed of the initial parameters, of the order of the data and of the draws.
        folder: the run folder of the cell; the options of the cell are in ``<folder>.json`` next to it.
        config: every option that changes the numbers of the cell, as JSON values.
    """

    model: str
    objective: str
    seed: int
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def label(self) -> str:
        """The name of the cell in the terminal and on the page."""
        return f"{self.model}, {self.objective}, seed {self.seed}"

    @property
    def record(self) -> Path:
        """The path of the file with `config`."""
        return self.folder.with_name(self.folder.name + ".json")

    @property
    def evaluation(self) -> Path:
        """The path of the file with the scores; the pointwise values are next to it, with suffix ``.safetensors``."""
        return self.folder / "evaluation.json"


@dataclass(frozen=True)
class Outcome:
    """The scores of a cell, or the reason why it failed.

    Attributes:
        cell: the cell.
        scores: numbers of the training and of the evaluation, as in ``evaluation.json``; empty if the cell failed.
        pointwise: one number for each test datum, shape (data,): ``log_evidence``, its estimated ``bias``, ``elbo``
            and, if it differs, ``summed_out_elbo`` in nats, ``khat``, and ``ess`` as a share of the particles; with
            annealing, ``importance_sampling`` and the Monte-Carlo error ``lower_noise`` in place of the bias, and for a
            sandwich also ``upper`` and ``upper_noise``; only ``elbo`` for a model without weights per datum; empty if
            the cell failed.
        failure: the reason of the failure in one line; empty if the cell finished.
        arrays: the arrays for the pictures of the cell, by name.
    """

    cell: Cell
    scores: Mapping[str, Any] = field(default_factory=dict)
    pointwise: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    failure: str = ""
    arrays: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
