"""Two passes that share their draws between evaluations: one over real data, and one over simulated data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pvae.evaluate.all_checks.latent_use import dependence_on_latents
from pvae.evaluate.base import Estimate
from pvae.evaluate.calibration.calibrate import ranks_of_pairs
from pvae.evaluate.diagnostics import (
    DRAWS,
    Diagnosis,
    diagnosis_of,
    weight_statistics,
)
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.evaluate.evidence_bias import bias_sizes, evidence_bias
from pvae.evaluate.finding import EvaluationSteps
from pvae.evaluate.latent_units import ACTIVE
from pvae.evaluate.resemblance_tests.measure_resemblance import evidence_of_batch, values_of_data
from pvae.evaluate.running_statistics import CHUNK, Bound, Statistic, summarise_weights
from pvae.evaluate.simulated_pairs import SimulatedPairs
from pvae.evaluate.weight_notes import MOST_UNRELIABLE, weight_notes
from pvae.evaluate.weight_trust import trust_of, trust_statistics

__all__ = ["FEW_PARTICLES", "SimulationPass", "WeightPass", "simulation_pass", "weight_pass"]

FEW_PARTICLES = 100
"""The number of particles of log p(x) for the typicality gap, for real and for simulated data."""


@dataclass(frozen=True)
class WeightPass:
    """The results of one pass over the log weights of real data.

    Attributes:
        evidence: mean log p(x), with its bias.
        elbo: the evidence lower bound.
        few: the bound with few particles of each datum, shape (data,), nats.
        few_particles: the number of these particles.
        diagnosis: weights and latent units, with their trust.
        doubts: why the log evidence is not reliable, one line each.
        cost: decoder evaluations.
    """

    evidence: Estimate
    elbo: Estimate
    few: Tensor
    few_particles: int
    diagnosis: Diagnosis
    doubts: tuple[str, ...]
    cost: int


def weight_pass(context: EvaluationContext, particles: int, few: int) -> WeightPass:
    """Return evidence, bound, diagnosis and trust from the same weights.

    Args:
        context: the model and the data.
        particles: the number of draws of z per datum.
        few: the number of particles of the bound that is compared between real and simulated data.

    Raises:
        InputError: if the programs give no weight per datum.
    """
    sizes = bias_sizes(particles)

    def statistics() -> list[Statistic]:
        own = [*weight_statistics(particles), *trust_statistics(particles)]
        return [*own, Bound(min(few, particles)), *(Bound(size) for size in sizes)]

    ess, khat, evidence, elbo, variance, accuracy, few_bound, *bounds = summarise_weights(
        context, particles, CHUNK, statistics
    )
    diagnosis = diagnosis_of(context, ess, khat, particles, DRAWS, CHUNK, ACTIVE)
    trust = trust_of(evidence, elbo, variance, accuracy)
    return WeightPass(
        evidence=replace(Estimate.mean_of(evidence), bias=evidence_bias(particles, evidence, bounds)),
        elbo=Estimate.mean_of(elbo),
        few=few_bound,
        few_particles=min(few, particles),
        diagnosis=replace(diagnosis, trust=trust),
        doubts=tuple(weight_notes(ess, khat, particles, MOST_UNRELIABLE)),
        cost=context.batch.size * (particles + DRAWS),
    )


@dataclass(frozen=True)
class SimulationPass:
    """The results of one pass over data that the model generates.

    Attributes:
        ranks: the ranks of each quantity, shape (simulations,).
        notes: notes on quantities that are left out.
        dependence: log p(x given its z) minus log p(x given another z), shape (simulations,), nats.
        values: x of each simulated datum, shape (simulations, units).
        evidence: log p(x) of each simulated datum with few particles, shape (simulations,); None if it was left out.
        cost: decoder evaluations.
    """

    ranks: Mapping[str, NDArray[np.int64]]
    notes: tuple[str, ...]
    dependence: Tensor
    values: Tensor
    evidence: Tensor | None
    cost: int


def simulation_pass(
    context: EvaluationContext, simulations: int, draws: int, seed: int, steps: EvaluationSteps, *, few: int | None
) -> SimulationPass:
    """Return ranks, dependence on the latents and log evidence of the same simulated data.

    Args:
        context: the model and real data; fields that the model does not generate are taken from them.
        simulations: the number of simulated data.
        draws: the number of draws of the guide for each simulated datum.
        seed: the seed of all draws.
        steps: counts the decoder evaluations.
        few: the number of particles of log p(x); None leaves it out.

    Raises:
        InputError: if the data share a latent site, or an observed site is not a field of the data.
    """
    dependence: list[Tensor] = []
    values: list[Tensor] = []
    evidence: list[Tensor] = []

    def visit(pairs: SimulatedPairs, index: int) -> None:
        values.append(values_of_data(pairs.batch))
        dependence.append(dependence_on_latents(context, pairs))
        steps.advance(pairs.batch.size)
        if few is not None:
            evidence.append(evidence_of_batch(context, pairs.batch, few, (seed, 6, index), steps))

    before = steps.done
    ranks, notes = ranks_of_pairs(context, simulations, draws, {}, seed, steps, visit)
    return SimulationPass(
        ranks=ranks,
        notes=notes,
        dependence=torch.cat(dependence),
        values=torch.cat(values),
        evidence=torch.cat(evidence) if evidence else None,
        cost=steps.done - before,
    )
