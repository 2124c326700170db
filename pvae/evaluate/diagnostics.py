"""Whether the importance weights can be believed, and what the latent units are used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pvae.checks import require_whole
from pvae.evaluate.adapter import good_khat
from pvae.evaluate.evaluation_context import Setting, prepared
from pvae.evaluate.stream import CHUNK, EffectiveSampleSize, ParetoKhat, Statistic, sweep
from pvae.evaluate.units import ACTIVE, LatentUnits, latent_units
from pvae.json_values import finite_or_none

__all__ = ["DRAWS", "Diagnosis", "diagnose", "diagnosis_of", "weight_statistics"]

DRAWS = 16
"""Draws per datum for KL and active units: exact with one where no latent site depends on another."""


@dataclass(frozen=True)
class Diagnosis:
    """How far an importance-sampled evidence can be believed, and what the latent units are used for.

    Args:
        ess: effective sample size (sum w)^2 / sum w^2 of each datum, shape (data,).
        khat: Pareto k-hat of each datum, shape (data,): reliable below `good_khat`, no finite mean above 1.
        latents: by site, KL per unit and activity.
        particles: draws per datum behind `ess` and `khat`.
        notes: what was left out or is not reliable, a line each.
    """

    ess: Tensor
    khat: Tensor
    latents: dict[str, LatentUnits]
    particles: int
    notes: tuple[str, ...] = field(default=())

    @property
    def good_khat(self) -> float:
        """The k-hat below which this many particles suffice."""
        return good_khat(self.particles)

    @property
    def unreliable(self) -> float:
        """Share of data whose k-hat is above `good_khat`, or not known."""
        return float((~(self.khat <= self.good_khat)).double().mean())

    @property
    def active_units(self) -> int | None:
        """Active units over all continuous sites, or None where there is none."""
        counts = [each.active for each in self.latents.values() if each.active is not None]
        return sum(counts) if counts else None

    def to_json(self) -> dict[str, Any]:
        """Return the summary over data as a dictionary that JSON can hold."""
        return {
            "ess": _quantiles(self.ess),
            "khat": {**_quantiles(self.khat), "good": self.good_khat, "unreliable": self.unreliable},
            "active_units": self.active_units,
            "latents": {name: each.to_json() for name, each in self.latents.items()},
            "particles": self.particles,
            "notes": list(self.notes),
        }


def _quantiles(values: Tensor) -> dict[str, float | None]:
    """Median and outer quantiles over data; data without a value are left out."""
    known = values[~values.isnan()]
    if len(known) == 0:
        return {"median": None, "q05": None, "q95": None}
    ordered = known.sort().values
    # by position, since interpolation between infinities is NaN
    at = {"median": 0.5, "q05": 0.05, "q95": 0.95}
    return {name: finite_or_none(float(ordered[round(q * (len(ordered) - 1))])) for name, q in at.items()}


def diagnose(
    model: Any,
    data: Any,
    particles: int = 1000,
    *,
    draws: int = DRAWS,
    threshold: float = ACTIVE,
    chunk: int = CHUNK,
    **where: Any,
) -> Diagnosis:
    """Return effective sample size and Pareto k-hat of each datum, KL per latent unit, and active units.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), a `Batch`, a tensor or an array.
        particles: draws of z per datum for the weights.
        draws: draws of z per datum for KL and active units.
        threshold: Var_x(E_q[z_u]) above which a unit counts as active.
        chunk: greatest number of (particle, datum) evaluations at once, which bounds the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate`` of `prepared`.

    Raises:
        InputError: if there are no data, a count is below 1, or the programs give no weight per datum.
    Source: Burda, Grosse & Salakhutdinov, arXiv:1509.00519, section 5 (active units); Vehtari et al., Pareto
        Smoothed Importance Sampling, JMLR 25 (2024).
    """
    with prepared(model, data, **where) as setting:
        found = sweep(setting, particles, chunk, lambda: weight_statistics(particles), points=True)
        return diagnosis_of(setting, found, particles, draws, chunk, threshold)


def weight_statistics(particles: int) -> list[Statistic]:
    """Return the running statistics that `diagnosis_of` takes, in its order."""
    return [EffectiveSampleSize(), ParetoKhat(particles)]


def diagnosis_of(
    setting: Setting, found: Sequence[Tensor], particles: int, draws: int, chunk: int, threshold: float
) -> Diagnosis:
    """Return the diagnosis of weights already swept, with the latent units found here."""
    draws = require_whole(draws, "draws")
    ess, khat = found
    with torch.no_grad():
        latents, notes = latent_units(setting, draws, chunk, threshold)
    return Diagnosis(ess, khat, latents, particles, (*_weight_notes(ess, khat, particles), *notes))


def _weight_notes(ess: Tensor, khat: Tensor, particles: int) -> list[str]:
    notes = []
    undefined = int(ess.isnan().sum())
    if undefined:
        notes.append(f"{undefined} of {len(ess)} data have no finite weight: model and guide do not overlap there")
    if particles <= 20:
        notes.append("Pareto k-hat needs at least 21 particles")
    elif (above := int((khat > good_khat(particles)).sum())) > 0:
        notes.append(
            f"{above} of {len(khat)} data have Pareto k-hat above {good_khat(particles):.2f}: "
            "their log evidence is too low by an amount that the error does not show"
        )
    return notes
