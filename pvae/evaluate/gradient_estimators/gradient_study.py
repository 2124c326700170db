"""What a study of gradients found: a row per objective and group of parameters, and its table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pvae.errors import InputError
from pvae.evaluate.base import Estimate
from pvae.json_values import finite_or_none

__all__ = ["GradientStudy", "GroupGradient"]

_TITLES = {
    "variance": "variance",
    "snr": "SNR",
    "snr_whole": "SNR, whole",
    "cosine": "cosine",
    "cosine_mean": "of the mean",
    "bias": "bias",
    "z": "|z| (limit)",
    "seconds": "ms",
    "cost": "variance x s",
}


@dataclass(frozen=True)
class GroupGradient:
    """The gradient of one objective for one group of parameters, of the loss per datum of the batch.

    Attributes:
        objective: its name with settings.
        group: ``"theta"``, ``"phi"``, or ``"both"`` for parameters that both programs share.
        coordinates: how many numbers the group has.
        biased: why the mean is not the target's gradient, in a few words, as the objective declares it; or empty.
        reference: what stands for the exact gradient of the objective's target.
        step: how it was computed, ``"graph"`` or ``"eager"``: seconds compare only between alike.
        bias: the mean's excess over the reference along it, in units of the reference: -0.5 is half too short.
        z: the largest distance of mean and reference of a coordinate in standard errors, the reference's own among
            them; NaN where the reference is a sample of the objective itself, which tests nothing.
        limit: what that largest z of so many coordinates exceeds as rarely, without bias, as one normal number
            exceeds 4.5 (Bonferroni).
        variance: the trace of the covariance of one draw.
        snr: size of the mean over standard deviation, averaged over coordinates.
        snr_whole: the norm of the mean over the root of `variance`.
        cosine: of one draw with the reference, on average.
        cosine_mean: of the mean with the reference.
        seconds: for one gradient, theta and phi together: of the CPU, or of the wall on a CUDA device; the mean
            over the middle half of the blocks of draws.
        cost: variance times seconds: the variance that a second of averaging leaves. The lower the better.
        mean: the mean gradient, shape (coordinates,).
        exact: the reference, shape (coordinates,).
        draws: every draw, shape (draws, coordinates), where kept.
    """

    objective: str
    group: str
    coordinates: int
    biased: str
    reference: str
    step: str
    bias: Estimate
    z: float
    limit: float
    variance: Estimate
    snr: Estimate
    snr_whole: Estimate
    cosine: Estimate
    cosine_mean: Estimate
    seconds: Estimate
    cost: Estimate
    mean: Tensor = field(repr=False, compare=False)
    exact: Tensor = field(repr=False, compare=False)
    draws: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def bias_found(self) -> bool:
        """Whether the mean is further from the reference than chance explains."""
        return self.z > self.limit

    def mark(self) -> str:
        """Return ``"biased: why"``, ``"biased (found)"`` where it is not declared, or an empty text."""
        if self.biased:
            return f"biased: {self.biased}"
        return "biased (found, not declared)" if self.bias_found else ""

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without vectors."""
        plain = {
            name: getattr(self, name) for name in ("objective", "group", "coordinates", "biased", "reference", "step")
        }
        plain |= {"z": finite_or_none(self.z), "limit": self.limit, "bias_found": self.bias_found}
        names = ("bias", "variance", "snr", "snr_whole", "cosine", "cosine_mean", "seconds", "cost")
        return plain | {name: getattr(self, name).to_json() for name in names}


@dataclass(frozen=True)
class GradientStudy:
    """The gradients of several objectives at the same parameters on the same batch.

    Attributes:
        rows: one per objective and group.
        draws: of each objective.
        seed: each objective's draws started from.
        batch: number of data in the batch.
        notes: what was left out of the study or not used, and why, a line each.
    """

    rows: tuple[GroupGradient, ...]
    draws: int
    seed: int
    batch: int
    notes: tuple[str, ...] = ()

    def of(self, objective: str, group: str = "phi") -> GroupGradient:
        """Return one row.

        Raises:
            InputError: if there is none.
        """
        for row in self.rows:
            if (row.objective, row.group) == (objective, group):
                return row
        known = ", ".join(dict.fromkeys(f"{row.objective} ({row.group})" for row in self.rows))
        raise InputError(f"The study has no {objective!r} ({group}); it has {known}.")

    def groups(self) -> tuple[str, ...]:
        """Return the groups that have parameters."""
        return tuple(dict.fromkeys(row.group for row in self.rows))

    def ranking(self, group: str | None = None) -> tuple[GroupGradient, ...]:
        """Return the rows of a group, the least variance times seconds first; those of biased objectives last.

        Args:
            group: by default phi, whose gradient is where estimators differ; theta where there is no phi.
        """
        chosen = group or ("phi" if "phi" in self.groups() else self.groups()[0])
        rows = [row for row in self.rows if row.group == chosen]
        return tuple(sorted(rows, key=lambda row: (bool(row.mark()), _finite(row.cost.value))))

    def table(self, *, ranked: bool = False) -> str:
        """Return the study as text: a table for each group, one line per objective.

        Args:
            ranked: order the lines as `ranking` does, not as the objectives were given.
        """
        size = f"{self.batch} data, {self.draws} draws of each objective, seed {self.seed}"
        parts = [f"Gradients of the loss per datum, {size}"]
        for group in self.groups():
            rows = self.ranking(group) if ranked else [row for row in self.rows if row.group == group]
            parts.append(f"{group}: {rows[0].coordinates} coordinates\n{_aligned(_lines(rows))}")
        parts.append(f"Reference:\n{self._references()}")
        if self.notes:
            parts.append("Notes:\n" + "\n".join(f"  {each}" for each in self.notes))
        return "\n\n".join(parts)

    def _references(self) -> str:
        every = dict.fromkeys(row.objective for row in self.rows)
        of: dict[str, dict[str, None]] = {}
        for row in self.rows:
            of.setdefault(row.reference, {})[row.objective] = None
        whose = {text: "all" if len(names) == len(every) else ", ".join(names) for text, names in of.items()}
        return "\n".join(f"  {names}: {text}" for text, names in whose.items())

    def to_json(self) -> dict[str, Any]:
        """Return every number, for JSON."""
        return {
            "draws": self.draws,
            "seed": self.seed,
            "batch": self.batch,
            "notes": self.notes,
            "rows": [row.to_json() for row in self.rows],
        }


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _short(estimate: Estimate, unit: float = 1.0) -> str:
    """A value with two digits of its error, in powers of ten where it is very small or large."""
    value, error = estimate.value * unit, estimate.error * unit
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    if not math.isfinite(error) or error <= 1e-9 * abs(value):
        return f"{value:.4g}"
    place = math.floor(math.log10(float(f"{error:.1e}"))) - 1
    top = math.floor(math.log10(max(abs(value), error)))
    if -4 <= top < 5:
        return f"{value:.{max(0, -place)}f} ± {error:.{max(0, -place)}f}"
    scale = 10.0**top
    return f"({value / scale:.{top - place}f} ± {error / scale:.{top - place}f})e{top:+03d}"


def _lines(rows: Sequence[GroupGradient]) -> Iterable[list[str]]:
    yield ["objective", *_TITLES.values(), ""]
    mixed = len({row.step for row in rows}) > 1
    for row in rows:
        cells = {name: _short(getattr(row, name)) for name in _TITLES if name != "z"}
        cells["seconds"] = _short(row.seconds, 1000.0)
        cells["z"] = "-" if math.isnan(row.z) else f"{row.z:.1f} ({row.limit:.1f})"
        notes = [row.mark(), "eager step" if mixed and row.step == "eager" else ""]
        yield [row.objective, *(cells[name] for name in _TITLES), "; ".join(filter(None, notes))]


def _aligned(rows: Iterable[Sequence[str]]) -> str:
    lines = [list(row) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    last = len(widths) - 1
    return "\n".join(
        "  ".join(
            cell.rjust(widths[place]) if 0 < place < last else cell.ljust(widths[place])
            for place, cell in enumerate(line)
        ).rstrip()
        for line in lines
    )
