"""`judge`: log evidence, ELBO, gap, bounds, diagnosis and membership of one model."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pvae.checks import require_whole
from pvae.data.subset import Subset
from pvae.evaluate.base import Estimate, EvidenceBias, difference
from pvae.evaluate.diagnostics import DRAWS, Diagnosis, diagnosis_of, weight_statistics
from pvae.evaluate.evaluated_data import ModelOrRun, evaluated_data
from pvae.evaluate.evaluation_context import evaluation_context
from pvae.evaluate.evidence_bias import bias_sizes, evidence_bias
from pvae.evaluate.latent_units import ACTIVE
from pvae.evaluate.membership import FEW_PARTICLES, describe_memorised, is_memorised, membership, training_elbo
from pvae.evaluate.running_statistics import CHUNK, Bound, Elbo, Statistic, summarise_weights
from pvae.evaluate.weight_trust import WeightTrust, distance_statistics, trust_of

__all__ = ["TREND", "Judgement", "judge"]

TREND = (50, 500, 5000)
"""Numbers of particles; the bounds at them show whether the estimate has converged."""


@dataclass(frozen=True)
class Judgement:
    """The quality of one model on some data, in nats per datum; every estimate keeps its pointwise values.

    Args:
        log_evidence: mean log p(x) by importance sampling, a lower bound in expectation, with its estimated `bias`.
        elbo: the evidence lower bound, from the same weights.
        gap: log_evidence - elbo, paired datum by datum.
        bounds: the importance-weighted bound by number of particles, for some smaller numbers and for all particles.
        diagnosis: effective sample size, k-hat, latent units, and the distance of the guide from the posterior.
        particles: the number of draws of z per datum.
        seed: the seed of the draws.
        decoder_evaluations: the number of times that the model scored a datum: draws times data, including training
            data.
        evaluation_seconds: wall-clock time of the evaluation, in seconds.
        summed_out_elbo: the bound in which the guide's sites that are marked for enumeration are summed out, so their q
            is not part of it (see `pvae.evaluate.summed_out_elbo`); None if it is the ELBO.
        membership: the probability that a training datum has a larger ELBO than a test datum; None if it is not known.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> judgement = pvae.evaluate.judge(model, x, particles=100)
        >>> print(judgement.log_evidence)
        -2.772 ± 0.073
        >>> sorted(judgement.bounds)
        [50, 100]
    """

    log_evidence: Estimate
    elbo: Estimate
    gap: Estimate
    bounds: dict[int, Estimate]
    diagnosis: Diagnosis
    particles: int
    seed: int
    decoder_evaluations: int
    evaluation_seconds: float
    summed_out_elbo: Estimate | None = field(default=None, init=False)
    membership: Estimate | None = None

    @property
    def seconds(self) -> float:
        """The old name of `evaluation_seconds`."""
        warnings.warn("Judgement.seconds is now called evaluation_seconds.", DeprecationWarning, stacklevel=2)
        return self.evaluation_seconds

    @property
    def subset(self) -> Subset | None:
        """A description of which data were evaluated."""
        return self.log_evidence.subset

    @property
    def bias(self) -> EvidenceBias | None:
        """The estimated bias of the log evidence in nats per datum; None for fewer than 10 particles."""
        return self.log_evidence.bias

    @property
    def ess(self) -> Tensor:
        """Effective sample size of each datum, shape (data,)."""
        return self.diagnosis.ess

    @property
    def khat(self) -> Tensor:
        """Pareto k-hat of each datum, shape (data,)."""
        return self.diagnosis.khat

    @property
    def trust(self) -> WeightTrust | None:
        """The distance of the guide from the posterior of each datum: KL, variance of log w, classifier accuracy."""
        return self.diagnosis.trust

    @property
    def active_units(self) -> int | None:
        """The number of active units of all continuous latent sites, or None if activity is not defined."""
        return self.diagnosis.active_units

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on results that are left out or not reliable, and on memorised training data, one line each."""
        if self.membership is None or not is_memorised(self.membership):
            return self.diagnosis.notes
        place = f"({self.membership.value:.0%} of the pairs)"
        return (*self.diagnosis.notes, describe_memorised(place))

    def to_json(self) -> dict[str, Any]:
        """Return everything except the pointwise values as a dictionary that JSON can hold."""
        summed_out = {} if self.summed_out_elbo is None else {"summed_out_elbo": self.summed_out_elbo.to_json()}
        return {
            "log_evidence": self.log_evidence.to_json(),
            "bias": None if self.bias is None else self.bias.to_json(),
            "elbo": self.elbo.to_json(),
            **summed_out,
            "gap": self.gap.to_json(),
            "bounds": {str(particles): bound.to_json() for particles, bound in self.bounds.items()},
            **self.diagnosis.to_json(),
            "notes": list(self.notes),
            "membership": None if self.membership is None else self.membership.to_json(),
            "data": self.log_evidence.count,
            "subset": None if self.subset is None else str(self.subset),
            "seed": self.seed,
            "decoder_evaluations": self.decoder_evaluations,
            "evaluation_seconds": self.evaluation_seconds,
        }


def judge(
    model: ModelOrRun,
    data: Any = None,
    particles: int = 1000,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    threshold: float = ACTIVE,
    chunk: int = CHUNK,
    **where: Any,
) -> Judgement:
    """Return log evidence, ELBO, gap, bounds, effective sample size, k-hat, trust, KL per unit and active units.

    All of them come from one pass over the log weights, so the gap is paired draw by draw. `log_evidence`, `elbo` and
    `diagnose` give the same numbers at the same `particles`, `seed` and `chunk`.

    For the test split of `Splits`, the ELBOs of the same number of training data show whether these are memorised. They
    use at most 50 draws of z per datum. They are left out if training labels were hidden, if entries were left out by a
    mask, or if the training data cannot be evaluated.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
        particles: the number of draws of z per datum.
        seed: the seed of the draws.
        draws: the number of draws of z per datum for KL and active units.
        threshold: a unit is active if Var_x(E_q[z_u]) is above it.
        chunk: the largest number of (particle, datum) evaluations at once, which limits the memory.
        where: ``limit``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if there are no data, a count is below 1, or the programs give no weight per datum.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> judgement = pvae.evaluate.judge(model, x, particles=200)
        >>> abs(judgement.gap.value - (judgement.log_evidence.value - judgement.elbo.value)) < 1e-6
        True
    """
    started = time.perf_counter()
    data = evaluated_data(model, data)
    with evaluation_context(model, data, seed=seed, **where) as context:
        particles = require_whole(particles, "particles")
        sizes = sorted({*(count for count in TREND if count < particles), *bias_sizes(particles)})
        results = summarise_weights(context, particles, chunk, lambda: _statistics(particles, sizes))
        pointwise_evidence, pointwise_elbo, pointwise_summed_out, ess, khat, variance, accuracy, *rest = results
        trust = trust_of(pointwise_evidence, pointwise_elbo, variance, accuracy)
        diagnosis = replace(diagnosis_of(context, ess, khat, particles, draws, chunk, threshold), trust=trust)
    bound_of = dict(zip(sizes, rest, strict=True))
    bias = evidence_bias(particles, pointwise_evidence, [bound_of[size] for size in bias_sizes(particles)])
    log_evidence = replace(context.estimate(pointwise_evidence), bias=bias)
    bound = context.estimate(pointwise_elbo)
    few = min(FEW_PARTICLES, particles)
    training = training_elbo(model, data, bound.count, few, seed=seed, chunk=chunk, **where)
    bounds = {count: context.estimate(values) for count, values in bound_of.items() if count in TREND}
    judgement = Judgement(
        log_evidence=log_evidence,
        elbo=bound,
        gap=difference(log_evidence, bound),
        bounds={**bounds, particles: log_evidence},
        diagnosis=diagnosis,
        particles=particles,
        seed=seed,
        decoder_evaluations=(particles + draws) * log_evidence.count
        + (0 if training is None else few * training.count),
        evaluation_seconds=time.perf_counter() - started,
        membership=None if training is None else membership(training, bound),
    )
    if not torch.equal(pointwise_summed_out, pointwise_elbo):
        # The dataclass is frozen; these values are set while it is constructed.
        object.__setattr__(judgement, "summed_out_elbo", context.estimate(pointwise_summed_out))
    return judgement


def _statistics(particles: int, sizes: list[int]) -> list[Statistic]:
    """Return new statistics: evidence, two ELBOs, effective sample size, k-hat, trust, and a bound for each size.

    In the second ELBO, the guide's marked sites are summed out.
    """
    weights = [*weight_statistics(particles), *distance_statistics()]
    return [Bound(particles), Elbo(), Bound(1), *weights, *(Bound(count) for count in sizes)]
