"""The gradient of an expected bound, in which each guide site has its own gradient strategy.

For a bound F of the log weights of K particles, the gradient of E[F] is E[dF + F * score]. The score is the gradient of
log q of the sites with detached draws. `estimate` returns a surrogate with this gradient. It combines four moves:

1. Enumeration: all values of a site are evaluated side by side, and the bound is summed with their probabilities
   (`pvae.objectives.gradients.entries`).
2. Score function: the bound is multiplied by exp(log q - stopped log q), which is 1 and has the derivatives of q to any
   order (Foerster et al., DiCE, arXiv:1802.05098).
3. Control variates: a number that does not depend on a particle's own draw is subtracted from its learning signal. The
   leave-one-out baselines are of this kind.
4. Branches: the gradient of a site is a weighted sum of differences between the bound at other values of the site and
   at its draw (`pvae.objectives.gradients.branches`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pvae.objectives.gradients.baselines import gradient_only, leave_one_out_mean
from pvae.objectives.gradients.branches import Branches, propose_branches
from pvae.objectives.gradients.entries import Entries, ParticleEntries, TupleEntries
from pvae.objectives.gradients.strategies import BIASED, BRANCHING, LEAVE_ONE_OUT
from pvae.weights import LogWeights, branch
from pvae.weights.enumeration import SUMMED
from pvae.weights.handlers import PATHWISE

__all__ = ["Estimand", "estimate"]


class Estimand(Protocol):
    """A bound with a gradient to be estimated.

    Attributes:
        averages: whether the bound is a mean of one number per particle.
        entropy: for such a bound, the factor of -log q in the number of each particle.
        mean: which mean of the other particles' weights replaces a particle's own in a leave-one-out baseline:
            "geometric" or "arithmetic".
    """

    averages: bool
    entropy: float | Tensor
    mean: str

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the bound per datum, shape (batch,), nats."""

    def reported(self, weights: LogWeights, surrogate: Tensor) -> Tensor:
        """Return the value per datum of weights with a known bound, shape (batch,), nats."""

    def baseline(self, signals: Tensor, weights: LogWeights) -> Tensor:
        """Return the number that is subtracted from the signal of each particle, shape (particles, batch), nats."""

    def control(self, signals: Tensor, weights: LogWeights) -> Tensor | None:
        """Return a term per datum with a gradient of mean zero, shape (batch,), or None."""


@dataclass(frozen=True)
class _EvaluatedBound:
    """A bound F at the draws of a batch, entry by entry.

    Attributes:
        objective: the bound.
        weights: the weights of the batch, with a strategy for each site.
        entries: how tensors of the weights become entries.
        weights_by_entry: the weights as entries, tensors of shape (particles of an entry, entries).
        probability: the probability of each entry, shape (entries,), with its gradient; None if no site is enumerated.
        bound: F of each entry, shape (entries,), with its pathwise gradient.
    """

    objective: Estimand
    weights: LogWeights
    entries: Entries
    weights_by_entry: LogWeights
    probability: Tensor | None
    bound: Tensor

    @property
    def fixed_probability(self) -> Tensor | None:
        """The probability of each entry without its gradient, shape (entries,), or None."""
        return None if self.probability is None else self.probability.detach()

    def value(self) -> Tensor:
        """Return the reported value per datum, shape (batch,), nats."""
        reported = self.objective.reported(self.weights_by_entry, self.bound)
        return self.entries.per_datum(reported, self.fixed_probability)

    def log_guide(self, *strategies: str) -> Tensor | None:
        """Return log q summed over the sites with one of the strategies, shape (particles of an entry, entries).

        None if there is no such site.
        """
        by_site = self.weights_by_entry.site_log_guide
        terms = [by_site[site] for site, strategy in self.weights.strategies.items() if strategy in strategies]
        return sum(terms[1:], start=terms[0]) if terms else None


def estimate(objective: Estimand, weights: LogWeights) -> tuple[Tensor, Tensor]:
    """Return the value of a bound, and a surrogate with the gradient of its expectation.

    Args:
        objective: the bound.
        weights: the weights of a batch, with a strategy for each site.

    Returns:
        Two tensors of shape (batch,), in nats.

    Raises:
        InputError: if the strategies cannot be combined, or there are too many enumerated outcomes.
    """
    if _is_pathwise(weights):
        surrogate = objective.surrogate(weights)
        return objective.reported(weights, surrogate), surrogate
    if objective.averages:
        return _estimate_mean_over_particles(objective, weights)
    return _estimate_joint_bound(objective, weights)


def _is_pathwise(weights: LogWeights) -> bool:
    """Return whether the gradient of the bound itself is the estimate, without further terms."""
    return weights.log_outcome is None and set(weights.strategies.values()) <= {PATHWISE, SUMMED, *BIASED}


def _estimate_mean_over_particles(objective: Estimand, weights: LogWeights) -> tuple[Tensor, Tensor]:
    """Return `estimate` for a bound that is a mean over particles: a particle's score multiplies its own number."""
    entries = ParticleEntries.of(weights)
    evaluated = _evaluate(objective, weights, entries)
    signals = entries.per_particle(evaluated.bound.detach(), evaluated.fixed_probability)
    surrogate = _with_scores(evaluated)
    for term in _particle_control_variates(evaluated, entries, signals):
        surrogate = surrogate + term
    surrogate = entries.per_datum(_with_branches(evaluated, surrogate), evaluated.probability)
    control = objective.control(signals, weights)
    return evaluated.value(), surrogate if control is None else surrogate + control


def _estimate_joint_bound(objective: Estimand, weights: LogWeights) -> tuple[Tensor, Tensor]:
    """Return `estimate` for a bound of all particles together: the scores of all particles multiply it."""
    entries = TupleEntries.of(weights)
    evaluated = _evaluate(objective, weights, entries)
    surrogate = _with_scores(evaluated)
    log_q = evaluated.log_guide(LEAVE_ONE_OUT)
    if log_q is not None:
        bounds = _leave_one_out_bounds(objective, evaluated.weights_by_entry)
        surrogate = surrogate + ((1 - score_factor(log_q)) * bounds).sum(0)
    surrogate = _with_branches(evaluated, surrogate)
    return evaluated.value(), entries.per_datum(surrogate, evaluated.probability)


def _evaluate(objective: Estimand, weights: LogWeights, entries: Entries) -> _EvaluatedBound:
    """Evaluate a bound at each entry (move 1, enumeration)."""
    weights_by_entry = weights.map(entries.to_entries)
    probability = entries.probability(weights.log_outcome)
    bound = objective.surrogate(weights_by_entry)
    return _EvaluatedBound(objective, weights, entries, weights_by_entry, probability, bound)


def score_factor(log_q: Tensor) -> Tensor:
    """Return ones with the derivatives of q / stopped q, of any order: the MagicBox of DiCE, in the shape of log_q."""
    return torch.exp(log_q - log_q.detach())


def _with_scores(evaluated: _EvaluatedBound) -> Tensor:
    """Return the bound times the score factor of all detached draws, shape (entries,) (move 2, score function)."""
    log_q = evaluated.log_guide("score", LEAVE_ONE_OUT)
    return evaluated.bound if log_q is None else evaluated.bound * score_factor(log_q.sum(0))


def _particle_control_variates(
    evaluated: _EvaluatedBound, entries: ParticleEntries, signals: Tensor
) -> Iterator[Tensor]:
    """Yield terms with a gradient of mean zero, shape (entries,) (move 3, control variates).

    Args:
        evaluated: a bound that is a mean over particles.
        entries: its entries.
        signals: the number of each particle, without gradient, shape (particles, batch), nats.
    """
    objective = evaluated.objective
    log_q = evaluated.log_guide(LEAVE_ONE_OUT)
    if log_q is not None:
        yield (1 - score_factor(log_q[0])) * entries.repeat_for_outcomes(leave_one_out_mean(signals))
    log_q = evaluated.log_guide("score")
    if log_q is not None:
        baseline = objective.baseline(signals, evaluated.weights)
        yield (1 - score_factor(log_q[0])) * entries.repeat_for_outcomes(baseline)
    # The number of each particle holds -log q. Its gradient at a detached draw has mean zero, so it is only noise.
    log_q = evaluated.log_guide("score", LEAVE_ONE_OUT, *BRANCHING)
    if log_q is not None:
        yield objective.entropy * (score_factor(log_q[0]) - 1)


def _replace_one_particle(table: Tensor, replacements: Tensor) -> Tensor:
    """Return the table with the value of one particle replaced, for each replacement and each particle.

    Args:
        table: shape (particles, entries).
        replacements: shape (replacements, particles, entries).

    Returns:
        Shape (particles, replacements * particles * entries): entry (r, k, e) has the values of entry e, except that
        particle k has the value of replacement r.
    """
    particles = len(table)
    is_replaced = torch.eye(particles, dtype=torch.bool, device=table.device)[:, None, :, None]
    return torch.where(is_replaced, replacements.unsqueeze(0), table[:, None, None, :]).flatten(1)


def _leave_one_out_bounds(objective: Estimand, weights_by_entry: LogWeights) -> Tensor:
    """Return the bound with the weight of each particle replaced by a mean of the other weights.

    Returns:
        Shape (particles, entries), without gradient.

    Source: Mnih & Rezende, Variational Inference for Monte Carlo Objectives, arXiv:1602.06725, equation 10.
    """
    fixed = weights_by_entry.map(Tensor.detach)
    replaced = fixed.map(lambda table: _replace_one_particle(table, leave_one_out_mean(table).unsqueeze(0)))
    if objective.mean == "arithmetic":
        log_means = _log_mean_of_other_weights(fixed.log_w)
        replaced = replaced.with_log_w(_replace_one_particle(fixed.log_w, log_means.unsqueeze(0)))
    with torch.no_grad():
        return objective.surrogate(replaced).reshape(fixed.particles, -1)


def _log_mean_of_other_weights(log_w: Tensor) -> Tensor:
    """Return for each particle the logarithm of the mean weight of all others, shape (particles, entries)."""
    particles = log_w.shape[0]
    is_own = torch.eye(particles, dtype=torch.bool, device=log_w.device).unsqueeze(-1)
    return torch.logsumexp(log_w.unsqueeze(0).masked_fill(is_own, -math.inf), 1) - math.log(particles - 1)


def _with_branches(evaluated: _EvaluatedBound, surrogate: Tensor) -> Tensor:
    """Return the surrogate plus the term of each site with branches, shape (entries,) (move 4, branches)."""
    for site, strategy in evaluated.weights.strategies.items():
        if strategy in BRANCHING:
            surrogate = surrogate + _branch_term(evaluated, propose_branches(evaluated.weights, site, strategy))
    return surrogate


def _branch_term(evaluated: _EvaluatedBound, branches: Branches) -> Tensor:
    """Return zeros with the gradient sum over branches r and particles of (F(z_r) - F(z)) dc_r, shape (entries,)."""
    with torch.no_grad():
        runs = branch(evaluated.weights, branches.site, branches.values)
        differences = _bounds_at_branches(evaluated, runs) - evaluated.bound.detach()
        # A value that cannot be drawn has no weight and does not change the gradient.
        impossible = evaluated.entries.to_entries(runs.log_guide) == -math.inf
        differences = differences.masked_fill(impossible, 0.0)
    return (differences * gradient_only(evaluated.entries.to_entries(branches.coefficients))).sum((0, 1))


def _bounds_at_branches(evaluated: _EvaluatedBound, runs: LogWeights) -> Tensor:
    """Return the bound with one particle at a branch and the others at their draws.

    Args:
        evaluated: the bound at the draws.
        runs: the weights at the branches, tensors of shape (branches, [outcomes,] particles, batch).

    Returns:
        Shape (branches, particles of an entry, entries), without gradient.
    """
    to_entries = evaluated.entries.to_entries
    at_branches = runs.map(to_entries)
    at_draws = evaluated.weights_by_entry.map(Tensor.detach)
    branches, particles = at_branches.log_joint.shape[:2]
    bounds = evaluated.objective.surrogate(at_draws.zip_with(at_branches, _replace_one_particle))
    bounds = bounds.reshape(branches, particles, -1)
    log_outcome = evaluated.weights.log_outcome
    if log_outcome is None or runs.log_outcome is None:
        return bounds
    # Enumerated sites that depend on the changed site have other probabilities at the branch.
    log_ratio = to_entries(runs.log_outcome) - to_entries(log_outcome)
    # The ratio is nan for an outcome that is impossible both at the branch and at the draw.
    ratio = torch.where(log_ratio.isnan(), torch.zeros_like(log_ratio), torch.exp(log_ratio))
    return bounds * ratio
