"""What experiments share: a budget, a folder that remembers what is done, numbers with their errors, tables."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.special import stdtr

from pvae.batch import Batch
from pvae.comparison.table.conclusions import LEVEL
from pvae.evaluate.holm import adjust_by_holm

__all__ = ["Budget", "Claim", "Result", "Room", "mean_error", "paired", "shown", "shuffled", "table", "verdicts"]


@dataclass(frozen=True)
class Budget:
    """How much an experiment may spend; fixed before it runs.

    Attributes:
        name: ``"short"`` for two cores, ``"published"`` for a CUDA device and the papers' settings.
        seeds: of trainings.
        settings: of the experiment.
    """

    name: str
    seeds: tuple[int, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """What an experiment measured.

    Attributes:
        setting: one paragraph: data, networks, budget, seeds.
        table: rows of text, the first the heading.
        says: what it says, one line each; differences with their verdicts.
        seconds: wall time.
    """

    setting: str
    table: tuple[tuple[str, ...], ...]
    says: tuple[str, ...]
    seconds: float = 0.0


class Room:
    """The folder of an experiment, in which each cell's numbers are kept, so that a second call goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def once(self, cell: str, measure: Callable[[], Any]) -> Any:
        """Return the JSON value of a cell, measured now or before."""
        path = self.folder / f"{cell}.json"
        if not path.exists():
            begun = time.monotonic()
            value = measure()
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps({"value": value, "seconds": time.monotonic() - begun}))
            os.replace(partial, path)
            print(f"{self.folder.name}: {cell} in {time.monotonic() - begun:.0f} s", flush=True)
        return json.loads(path.read_text())["value"]

    def seconds(self) -> float:
        """Return the time of all cells."""
        return sum(json.loads(path.read_text())["seconds"] for path in self.folder.glob("*.json"))


def shuffled(batch: Batch) -> Batch:
    """Return the data in an order of no meaning, always the same: the first images of a file may be the harder ones."""
    return batch.take(torch.randperm(batch.size, generator=torch.Generator().manual_seed(0)))


def mean_error(values: Iterable[float]) -> tuple[float, float]:
    """Return mean and standard error of independent numbers; NaN for one alone."""
    given = torch.tensor(list(values), dtype=torch.float64)
    error = float(given.std()) / math.sqrt(len(given)) if len(given) > 1 else math.nan
    return float(given.mean()), error


def paired(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return the mean difference of pairs, such as one for each seed, with its standard error."""
    return mean_error([a - b for a, b in zip(first, second, strict=True)])


def shown(value: float, error: float, decimals: int = 2, sign: bool = False) -> str:
    """Return a number with its error, as text."""
    plus = "+" if sign else ""
    return f"{value:{plus}.{decimals}f} ± {error:.{decimals}f}"


class Claim(NamedTuple):
    """A difference that an experiment tests.

    Attributes:
        what: what is compared.
        value: the difference.
        error: its standard error.
        unit: the unit.
        decimals: digits after the point.
    """

    what: str
    value: float
    error: float
    unit: str
    decimals: int = 2


def verdicts(says: Sequence[Claim | str], seeds: int) -> tuple[str, ...]:
    """Return the lines of an experiment, with a verdict on each difference.

    A difference is shown if Student's t with seeds - 1 degrees of freedom, adjusted by Holm for all differences of the
    experiment, shows it at 5 %, as in the table of a comparison.

    Args:
        says: differences, and lines that stay as they are.
        seeds: the number of seeds of each error.
    """
    claims = [line for line in says if isinstance(line, Claim)]
    ratios = [abs(claim.value) / claim.error if claim.error > 0 else math.nan for claim in claims]
    p_values = [2.0 * float(stdtr(seeds - 1, -ratio)) for ratio in ratios]
    adjusted = iter(adjust_by_holm(torch.tensor(p_values, dtype=torch.float64)).tolist())
    return tuple(_verdict(line, next(adjusted)) if isinstance(line, Claim) else line for line in says)


def _verdict(claim: Claim, p_value: float) -> str:
    number = f"{shown(claim.value, claim.error, claim.decimals, sign=True)} {claim.unit}".strip()
    rounded = "below 0.001" if p_value < 0.001 else f"{p_value:.3f}"
    if p_value <= LEVEL:
        return f"{claim.what}: {number}, shown (adjusted p {rounded})."
    return f"{claim.what}: {number}, not shown (adjusted p {rounded}): no claim."


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table in Markdown."""
    heading, *others = rows
    lines = [heading, ["---"] * len(heading), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
