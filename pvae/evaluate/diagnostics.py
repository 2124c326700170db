"""`diagnose`: the reliability of the importance weights, and the use of the latent units."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.arviz_versions import good_khat
from pvae.evaluate.evaluated_data import ModelOrRun
from pvae.evaluate.evaluation_context import EvaluationContext, evaluation_context
from pvae.evaluate.latent_units import ACTIVE, LatentUnits, latent_units
from pvae.evaluate.running_statistics import CHUNK, EffectiveSampleSize, ParetoKhat, Statistic, summarise_weights
from pvae.evaluate.weight_notes import LARGEST_KL, suspect_data, weight_notes
from pvae.evaluate.weight_trust import WeightTrust, no_trust, quantiles, trust_of, trust_statistics
from pvae.json_values import finite_or_none
from pvae.programs.sites import is_delta, sample_sites
from pvae.shown_tables import ShownTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "DRAWS",
    "Diagnosis",
    "diagnose",
    "diagnosis_of",
    "draws_point",
    "weight_statistics",
]

DRAWS = 16
"""Draws per datum for KL and active units. If no latent site depends on another, one draw gives the exact values."""


@dataclass(frozen=True)
class Diagnosis:
    """The reliability of an importance-sampled evidence, and the use of the latent units.

    Args:
        ess: effective sample size (sum w)^2 / sum w^2 of each datum, shape (data,), in particles.
        khat: Pareto k-hat of each datum, shape (data,). The evidence is reliable below `good_khat`; above 1 the weights
            have no finite mean.
        latents: KL per unit and activity, by site.
        particles: the number of draws per datum from which `ess` and `khat` are estimated.
        notes: notes on results that are left out or not reliable, one line each.
        trust: the distance of the guide from the posterior of each datum; None if it was not computed.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> diagnosis = pvae.evaluate.diagnose(model, x, particles=100)
        >>> diagnosis.khat.shape, diagnosis.latents["z"].kl_per_unit.shape
        (torch.Size([4]), torch.Size([2]))
    """

    ess: Tensor
    khat: Tensor
    latents: dict[str, LatentUnits]
    particles: int
    notes: tuple[str, ...] = field(default=())
    trust: WeightTrust | None = None

    @property
    def good_khat(self) -> float:
        """The k-hat below which this number of particles is enough."""
        return good_khat(self.particles)

    @property
    def unreliable(self) -> float:
        """The share of data with a k-hat that is above `good_khat` or not known, from 0 to 1; NaN without weights."""
        if bool((self.khat.isnan() & self.ess.isnan()).all()):
            return math.nan
        return float((~(self.khat <= self.good_khat)).double().mean())

    @property
    def active_units(self) -> int | None:
        """The number of active units of all continuous sites, or None if activity is not defined for any site."""
        counts = [units.active for units in self.latents.values() if units.active is not None]
        return sum(counts) if counts else None

    def to_json(self) -> dict[str, Any]:
        """Return the summary over data as a dictionary that JSON can hold."""
        return {
            "ess": quantiles(self.ess),
            "khat": {**quantiles(self.khat), "good": self.good_khat, "unreliable": finite_or_none(self.unreliable)},
            **({} if self.trust is None else self.trust.to_json()),
            "active_units": self.active_units,
            "latents": {name: units.to_json() for name, units in self.latents.items()},
            "particles": self.particles,
            "notes": list(self.notes),
        }

    def table(self) -> list[dict[str, str]]:
        """Return the numbers as rows of text, each with the keys ``quantity``, ``value`` and ``note``."""
        rows = [
            {"quantity": name, "value": median, "note": f"median over data; 5 %: {low}, 95 %: {high}"}
            for name, low, median, high in self._quantile_rows()
        ]
        share = _shown(finite_or_none(self.unreliable))
        rows.append({"quantity": "share of data with unreliable weights", "value": share, "note": "by Pareto k-hat"})
        for name, units in self.latents.items():
            note = f"active units: {_shown(units.active)}"
            rows.append({"quantity": f"KL of {name}", "value": str(units.kl or "not known"), "note": note})
        return [*rows, *({"quantity": "note", "value": note, "note": ""} for note in self.notes)]

    def plot(self, path: str | Path | None = None) -> Figure:
        """Return KL(q to posterior) against Pareto k-hat, with a dot for each datum.

        Args:
            path: a file to write the figure to, or None. Its suffix decides the format, such as ``.png`` or ``.svg``.

        Raises:
            InputError: if the distance from the posterior was not computed, or is not available.
        """
        from pvae.plots.figure_files import save_figure
        from pvae.plots.trust_plots import trust_scatter

        if self.trust is None or bool(self.trust.kl.isnan().all()):
            raise InputError("The figure needs KL(q to posterior) of each datum, which is not available here.")
        suspect = suspect_data(self.khat, self.ess, self.particles, self.trust)
        figure = trust_scatter(self.trust.kl, self.khat, suspect, LARGEST_KL)
        if path is not None:
            save_figure(figure, Path(path), {"particles": self.particles})
        return figure

    def _quantile_rows(self) -> list[list[str]]:
        """Return a name, the 5 % quantile, the median and the 95 % quantile over data, for each number of a datum."""
        summary = self.to_json()
        units = {
            "ess": f"effective sample size, of {self.particles}",
            "khat": f"Pareto k-hat, reliable below {self.good_khat:.2f}",
            "log_weight_variance": "variance of the log weights",
            "kl": "KL(q to posterior), nats",
            "accuracy": "accuracy",
        }
        levels = ("q05", "median", "q95")
        return [
            [text, *(_shown(summary[name][level]) for level in levels)]
            for name, text in units.items()
            if name in summary
        ]

    def _repr_html_(self) -> str:
        sites = [
            f"{name}: KL {units.kl or 'not known'} nats per datum, active units {_shown(units.active)}"
            for name, units in self.latents.items()
        ]
        lines = [f"Share of data with unreliable weights: {_shown(finite_or_none(self.unreliable))}", *sites]
        headings = ["", "5% of data", "median", "95% of data"]
        return ShownTable(headings, self._quantile_rows(), "Diagnosis", [*lines, *self.notes]).to_html()


def _shown(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4g}"


def diagnose(
    model: ModelOrRun,
    data: Any = None,
    particles: int = 1000,
    *,
    draws: int = DRAWS,
    threshold: float = ACTIVE,
    chunk: int = CHUNK,
    **where: Any,
) -> Diagnosis:
    """Return effective sample size, Pareto k-hat and trust of each datum, KL per latent unit, and active units.

    The weights show where the guide is far from the posterior. They do not show a mode that the guide never draws, so
    they cannot show that the guide is right; `calibrate` tests this.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
        particles: the number of draws of z per datum for the weights.
        draws: the number of draws of z per datum for KL and active units.
        threshold: a unit is active if Var_x(E_q[z_u]) is above it.
        chunk: the largest number of (particle, datum) evaluations at once, which limits the memory.
        where: ``limit``, ``seed``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if there are no data, a count is below 1, or the programs give no weight per datum.
    Source: Burda, Grosse & Salakhutdinov, arXiv:1509.00519, section 5 (active units); Vehtari et al., Pareto
        Smoothed Importance Sampling, JMLR 25 (2024).

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> diagnosis = pvae.evaluate.diagnose(model, x, particles=100)
        >>> diagnosis.ess.shape, diagnosis.khat.shape
        (torch.Size([4]), torch.Size([4]))
    """
    with evaluation_context(model, data, **where) as context:
        is_point = draws_point(context)
        statistics = [weight_statistics] if is_point else [weight_statistics, trust_statistics]
        ess, khat, *distances = summarise_weights(
            context,
            particles,
            chunk,
            lambda: [statistic for make in statistics for statistic in make(particles)],
            allow_point_masses=True,
        )
        diagnosis = diagnosis_of(context, ess, khat, particles, draws, chunk, threshold)
        if is_point:
            return _without_weights(diagnosis, len(weight_notes(ess, khat, particles)))
        return replace(diagnosis, trust=trust_of(*distances) if distances else no_trust(len(ess)))


def _without_weights(diagnosis: Diagnosis, notes: int) -> Diagnosis:
    """Return the diagnosis of a guide that draws z from a point: it has no weights, k-hat or ESS.

    Args:
        diagnosis: the diagnosis of log p(x, z) in place of the weights.
        notes: the number of its first notes that are about weights.
    """
    unknown = torch.full_like(diagnosis.khat, math.nan)
    note = "the guide draws z from a point: k-hat and effective sample size are not available"
    others = diagnosis.notes[notes:]
    return replace(diagnosis, ess=unknown, khat=unknown, trust=no_trust(len(unknown)), notes=(note, *others))


def draws_point(context: EvaluationContext) -> bool:
    """Return whether the guide draws a real z from a Delta that is not a function of other draws.

    Args:
        context: the model and the data.
    """
    programs = context.first_data
    with programs.preserved_state():
        sites = sample_sites(programs.trace_guide())
    points = [site for site in sites if is_delta(site) and not site["is_observed"]]
    images = {*programs.layout.bijection.points, *programs.layout.bijection.auxiliary}
    return any(site["value"].is_floating_point() and site["name"] not in images for site in points)


def weight_statistics(particles: int) -> list[Statistic]:
    """Return new running statistics of the weights: effective sample size and Pareto k-hat.

    Args:
        particles: the number of particles that will be added to each.
    """
    return [EffectiveSampleSize(), ParetoKhat(particles)]


def diagnosis_of(
    context: EvaluationContext,
    ess: Tensor,
    khat: Tensor,
    particles: int,
    draws: int,
    chunk: int,
    threshold: float,
) -> Diagnosis:
    """Return the diagnosis for known statistics of the weights; the latent units are computed here.

    Args:
        context: the model and the data.
        ess: effective sample size of each datum, shape (data,).
        khat: Pareto k-hat of each datum, shape (data,).
        particles: the number of draws per datum from which these two were estimated.
        draws: the number of draws of z per datum for KL and active units.
        chunk: the largest number of data at once.
        threshold: a unit is active if Var_x(E_q[z_u]) is above it.

    Raises:
        InputError: if `draws` is below 1.
    """
    draws = require_whole(draws, "draws")
    with torch.no_grad():
        latents, notes = latent_units(context, draws, chunk, threshold)
    return Diagnosis(ess, khat, latents, particles, (*weight_notes(ess, khat, particles), *notes))
