"""The result of a study of gradients: a row for each objective and group of parameters, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pvae.errors import InputError
from pvae.evaluate.base import Estimate
from pvae.json_values import finite_or_none

__all__ = ["GradientStudy", "GroupGradient"]

#: Attributes of `GroupGradient`, with the titles of their columns.
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
    """The gradient of one objective's loss per datum of the batch, for one group of parameters.

    Attributes:
        objective: the name with settings.
        group: ``"theta"``, ``"phi"``, or ``"both"`` for parameters of both programs.
        coordinates: the number of coordinates of the group.
        biased: the reason why the mean is not the target's gradient, as the objective declares it; "" if unbiased.
        reference: how the reference gradient was computed. The reference is the exact gradient of the objective's
            target, or an estimate of it.
        step: how a gradient was computed, ``"graph"`` or ``"eager"``. Times are comparable only between equal steps.
        bias: the length by which the mean exceeds the reference, along the reference, in units of its norm. For
            example, -0.5 means that the mean is half as long as the reference.
        z: the largest distance of mean and reference over the coordinates, in standard errors, including those of a
            sampled reference. NaN if the reference is a sample of the objective itself, because this tests nothing.
        limit: without bias, `z` exceeds this limit as rarely as one normal number exceeds 4.5 (Bonferroni).
        variance: the trace of the covariance of one draw.
        snr: absolute value of the mean over standard deviation, averaged over coordinates.
        snr_whole: the norm of the mean over the square root of `variance`.
        cosine: the mean cosine between one draw and the reference.
        cosine_mean: the cosine between the mean and the reference.
        seconds: the time of one gradient of theta and phi together: CPU time, or wall-clock time on a CUDA device. It
            is the mean over the middle half of the blocks of draws.
        cost: variance times seconds, which is the variance that remains after one second of averaging; lower is better.
        mean: the mean gradient, shape (coordinates,).
        exact: the reference, shape (coordinates,).
        draws: every draw, shape (draws, coordinates), or None if the draws were not kept.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> study = pvae.evaluate.gradients(model, x, ["elbo", "dreg:particles=8"], draws=4, warm_up=0, step="eager")
        >>> row = study.rows[0]
        >>> row.objective, row.group, row.mean.shape == row.exact.shape
        ('elbo', 'theta', True)
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
        """Whether the mean is further from the reference than random errors explain."""
        return self.z > self.limit

    def mark(self) -> str:
        """Return ``"biased: why"``, ``"biased (found, not declared)"``, or an empty text for an unbiased gradient."""
        if self.biased:
            return f"biased: {self.biased}"
        return "biased (found, not declared)" if self.bias_found else ""

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without vectors, as a dictionary that JSON can hold."""
        names = ("bias", "variance", "snr", "snr_whole", "cosine", "cosine_mean", "seconds", "cost")
        return {
            "objective": self.objective,
            "group": self.group,
            "coordinates": self.coordinates,
            "biased": self.biased,
            "reference": self.reference,
            "step": self.step,
            "z": finite_or_none(self.z),
            "limit": self.limit,
            "bias_found": self.bias_found,
            **{name: getattr(self, name).to_json() for name in names},
        }


@dataclass(frozen=True)
class GradientStudy:
    """The gradients of several objectives at the same parameters on the same batch.

    Attributes:
        rows: one for each objective and group.
        draws: the number of draws of each objective.
        seed: the seed of the draws of every objective.
        batch: the number of data in the batch.
        notes: notes on objectives and references that are left out, one line each.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> study = pvae.evaluate.gradients(model, x, ["elbo", "dreg:particles=8"], draws=4, warm_up=0, step="eager")
        >>> [(row.objective, row.group) for row in study.rows]
        [('elbo', 'theta'), ('elbo', 'phi'), ('dreg:particles=8', 'theta'), ('dreg:particles=8', 'phi')]
    """

    rows: tuple[GroupGradient, ...]
    draws: int
    seed: int
    batch: int
    notes: tuple[str, ...] = ()

    def of(self, objective: str, group: str = "phi") -> GroupGradient:
        """Return one row.

        Args:
            objective: the name of the objective, as in the table.
            group: ``"theta"``, ``"phi"`` or ``"both"``.

        Raises:
            InputError: if there is no such row.
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
        """Return the rows of a group in increasing order of variance times seconds; biased ones are last.

        Args:
            group: by default phi, because estimators differ in the gradient of phi; theta if there is no phi.
        """
        chosen = group or ("phi" if "phi" in self.groups() else self.groups()[0])
        return tuple(sorted(self._rows_of(chosen), key=lambda row: (bool(row.mark()), _nan_last(row.cost.value))))

    def _rows_of(self, group: str) -> list[GroupGradient]:
        return [row for row in self.rows if row.group == group]

    def table(self, *, ranked: bool = False) -> str:
        """Return the study as text: a table for each group, one line per objective.

        Args:
            ranked: whether the lines are in the order of `ranking`; otherwise they are in the order of the objectives.
        """
        size = f"{self.batch} data, {self.draws} draws of each objective, seed {self.seed}"
        parts = [f"Gradients of the loss per datum, {size}"]
        for group in self.groups():
            rows = self.ranking(group) if ranked else self._rows_of(group)
            parts.append(f"{group}: {rows[0].coordinates} coordinates\n{_align(_lines(rows))}")
        parts.append(f"Reference:\n{self._references()}")
        if self.notes:
            parts.append("Notes:\n" + "\n".join(f"  {note}" for note in self.notes))
        return "\n\n".join(parts)

    def _references(self) -> str:
        """Return one line for each reference, with the objectives that are compared with it."""
        names = dict.fromkeys(row.objective for row in self.rows)
        names_by_reference: dict[str, dict[str, None]] = {}
        for row in self.rows:
            names_by_reference.setdefault(row.reference, {})[row.objective] = None
        lines = []
        for reference, compared in names_by_reference.items():
            label = "all" if len(compared) == len(names) else ", ".join(compared)
            lines.append(f"  {label}: {reference}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return every number, without vectors, as a dictionary that JSON can hold."""
        return {
            "draws": self.draws,
            "seed": self.seed,
            "batch": self.batch,
            "notes": self.notes,
            "rows": [row.to_json() for row in self.rows],
        }


def _nan_last(value: float) -> float:
    """Return a number to sort by; NaN sorts with infinity, after all finite numbers."""
    return value if math.isfinite(value) else math.inf


def _short(estimate: Estimate, unit: float = 1.0) -> str:
    """Return a value with two digits of its error, with a power of ten if it is very small or large.

    Args:
        estimate: the value and its standard error.
        unit: a factor for both.
    """
    value, error = estimate.value * unit, estimate.error * unit
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    if not math.isfinite(error) or error <= 1e-9 * abs(value):
        return f"{value:.4g}"
    last_digit = math.floor(math.log10(float(f"{error:.1e}"))) - 1
    first_digit = math.floor(math.log10(max(abs(value), error)))
    if -4 <= first_digit < 5:
        decimals = max(0, -last_digit)
        return f"{value:.{decimals}f} ± {error:.{decimals}f}"
    scale = 10.0**first_digit
    decimals = first_digit - last_digit
    return f"({value / scale:.{decimals}f} ± {error / scale:.{decimals}f})e{first_digit:+03d}"


def _lines(rows: Sequence[GroupGradient]) -> Iterator[list[str]]:
    """Yield the cells of each line of a table: objective, a cell for each title, and remarks."""
    yield ["objective", *_TITLES.values(), ""]
    has_both_steps = len({row.step for row in rows}) > 1
    for row in rows:
        cells = {name: _short(getattr(row, name)) for name in _TITLES if name != "z"}
        cells["seconds"] = _short(row.seconds, 1000.0)
        cells["z"] = "-" if math.isnan(row.z) else f"{row.z:.1f} ({row.limit:.1f})"
        remarks = [row.mark(), "eager step" if has_both_steps and row.step == "eager" else ""]
        yield [row.objective, *(cells[name] for name in _TITLES), "; ".join(filter(None, remarks))]


def _align(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of cells as text in columns; the first and the last column are aligned to the left."""
    rows = list(rows)
    last = len(rows[0]) - 1
    widths = [max(len(row[column]) for row in rows) for column in range(last + 1)]
    lines = []
    for row in rows:
        cells = []
        for column, cell in enumerate(row):
            is_text = column in (0, last)
            cells.append(cell.ljust(widths[column]) if is_text else cell.rjust(widths[column]))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
