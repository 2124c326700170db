"""Everything that a comparison prints about one model, from one pass over the weights."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pvae.checks import require_whole
from pvae.evaluate.base import Estimate, difference
from pvae.evaluate.diagnostics import DRAWS, Diagnosis, diagnosis_of, weight_statistics
from pvae.evaluate.evaluation_context import prepared
from pvae.evaluate.stream import CHUNK, Bound, Statistic, sweep
from pvae.evaluate.units import ACTIVE

__all__ = ["TREND", "Judgement", "judge"]

TREND = (50, 500, 5000)
"""Numbers of particles whose bounds show whether the estimate has converged."""


@dataclass(frozen=True)
class Judgement:
    """How good one model is on some data, in nats per datum; every estimate keeps its pointwise values.

    Args:
        log_evidence: mean log p(x) by importance sampling, a lower bound in expectation.
        elbo: the evidence lower bound, from the same weights.
        gap: log_evidence - elbo, paired.
        bounds: the bound at fewer particles, and at all of them.
        diagnosis: effective sample size, k-hat and latent units.
        particles: draws of z per datum.
        seed: of the draws.
        decoder_evaluations: times that the model was scored, particles times data.
        seconds: wall-clock time of the evaluation.
    """

    log_evidence: Estimate
    elbo: Estimate
    gap: Estimate
    bounds: dict[int, Estimate]
    diagnosis: Diagnosis
    particles: int
    seed: int
    decoder_evaluations: int
    seconds: float

    @property
    def ess(self) -> Tensor:
        """Effective sample size of each datum, shape (data,)."""
        return self.diagnosis.ess

    @property
    def khat(self) -> Tensor:
        """Pareto k-hat of each datum, shape (data,)."""
        return self.diagnosis.khat

    @property
    def active_units(self) -> int | None:
        """Active units over all continuous latent sites."""
        return self.diagnosis.active_units

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out or is not reliable, a line each."""
        return self.diagnosis.notes

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pointwise values as a dictionary that JSON can hold."""
        return {
            "log_evidence": self.log_evidence.to_json(),
            "elbo": self.elbo.to_json(),
            "gap": self.gap.to_json(),
            "bounds": {str(particles): bound.to_json() for particles, bound in self.bounds.items()},
            **self.diagnosis.to_json(),
            "data": self.log_evidence.count,
            "seed": self.seed,
            "decoder_evaluations": self.decoder_evaluations,
            "seconds": self.seconds,
        }


def judge(
    model: Any,
    data: Any,
    particles: int = 1000,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    threshold: float = ACTIVE,
    chunk: int = CHUNK,
    **where: Any,
) -> Judgement:
    """Return log evidence, ELBO, gap, bounds, effective sample size, k-hat, KL per unit and active units.

    One pass over the weights serves all of them, so the gap is paired draw by draw. `log_evidence`, `elbo`
    and `diagnose` give the same numbers at the same `particles`, `seed` and `chunk`.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), a `Batch`, a tensor or an array.
        particles: draws of z per datum.
        seed: of the draws.
        draws: draws of z per datum for KL and active units.
        threshold: Var_x(E_q[z_u]) above which a unit counts as active.
        chunk: greatest number of (particle, datum) evaluations at once, which bounds the memory.
        where: ``limit``, ``device``, ``split``, ``fields``, ``data_plate`` of `prepared`.

    Raises:
        InputError: if there are no data, a count is below 1, or the programs give no weight per datum.
    """
    started = time.perf_counter()
    with prepared(model, data, seed=seed, **where) as setting:
        particles = require_whole(particles, "particles")
        sizes = sorted({each for each in TREND if each < particles})
        found = sweep(setting, particles, chunk, lambda: _statistics(particles, sizes))
        evidence, elbo, *rest = found
        diagnosis = diagnosis_of(setting, rest[:2], particles, draws, chunk, threshold)
    log_evidence, lower = Estimate.mean_of(evidence), Estimate.mean_of(elbo)
    return Judgement(
        log_evidence=log_evidence,
        elbo=lower,
        gap=difference(log_evidence, lower),
        bounds={
            **{k: Estimate.mean_of(v) for k, v in zip(sizes, rest[2:], strict=True)},
            particles: log_evidence,
        },
        diagnosis=diagnosis,
        particles=particles,
        seed=seed,
        decoder_evaluations=(particles + draws) * log_evidence.count,
        seconds=time.perf_counter() - started,
    )


def _statistics(particles: int, sizes: list[int]) -> list[Statistic]:
    return [Bound(particles), Bound(1), *weight_statistics(particles), *(Bound(each) for each in sizes)]
