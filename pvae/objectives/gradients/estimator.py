"""The gradient of an expected bound, each guide site in its own way: one surrogate, right whichever way they mix.

For a bound F of the log weights of K particles, the gradient of E[F] is E[dF + F * score], where the score belongs to
the sites whose draws are cut off. Everything here rests on three moves: values of enumerated sites stand side by side
and are summed with their probabilities; a score multiplies F by exp(l - stopped l), which is 1 and right to any order
(Foerster et al., DiCE, arXiv:1802.05098); and whatever does not depend on a particle's own draw may be taken off F.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.objectives.gradients.baselines import others, zero
from pvae.objectives.gradients.branches import Branches, propose
from pvae.objectives.gradients.strategies import BIASED, BRANCHING, LEAVE_ONE_OUT
from pvae.weights import LogWeights, branch
from pvae.weights.handlers import PATHWISE, SUMMED

__all__ = ["Estimand", "estimate"]

_MOST_OUTCOMES = 65536


class Estimand(Protocol):
    """A bound whose gradient is wanted.

    Attributes:
        averages: whether it is a mean over particles of a number of each.
        entropy: for those, the factor of -log q in that number.
        mean: how the others' weights stand in for one particle's: "geometric" or "arithmetic".
    """

    averages: bool
    entropy: float | Tensor
    mean: str

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the bound per datum."""

    def reported(self, weights: LogWeights, surrogate: Tensor) -> Tensor:
        """Return the value per datum, for weights whose bound is known."""

    def baseline(self, signals: Tensor, weights: LogWeights) -> Tensor:
        """Return what is taken off each particle's signal, shape (particles, batch)."""

    def control(self, signals: Tensor, weights: LogWeights) -> Tensor | None:
        """Return a term per datum whose gradient has mean zero, or None."""


def magic(log_q: Tensor) -> Tensor:
    """Return ones whose derivatives, of any order, are those of q / stopped q."""
    return torch.exp(log_q - log_q.detach())


@dataclass(frozen=True)
class _Spread:
    """Tables as entries that the bound is taken of one by one: (..., particles, entries), with their probabilities.

    Where a bound averages over particles, each particle (and each outcome) is an entry of its own. Otherwise an
    entry is a choice of one outcome for every particle.
    """

    averages: bool
    outcomes: int
    particles: int
    batch: int
    picks: Tensor | None

    def __call__(self, table: Tensor) -> Tensor:
        """Return a table of shape (..., [outcomes,] particles, batch) as (..., particles, entries)."""
        if self.averages:
            front = table.dim() - (3 if self.outcomes else 2)
            return table.reshape(*table.shape[:front], 1, -1)
        if self.picks is None:
            return table
        chosen = table[..., self.picks, torch.arange(self.particles, device=table.device), :]  # (..., C, K, B)
        return chosen.movedim(-2, -3).flatten(-2)

    def probability(self, log_outcome: Tensor | None) -> Tensor | None:
        """Return the probability of each entry, shape (entries,), attached; None where it is one."""
        if self.averages:
            whole = torch.exp(log_outcome) if log_outcome is not None else None
            return None if whole is None else whole.reshape(-1) / self.particles
        return None if log_outcome is None else torch.exp(self(log_outcome).sum(0))

    def gathered(self, entries: Tensor, probability: Tensor | None) -> Tensor:
        """Return the sum over a datum's entries, each times its probability, shape (batch,)."""
        if probability is not None:
            return (entries * probability).reshape(-1, self.batch).sum(0)
        if self.averages:
            return entries.reshape(-1, self.batch).mean(0)
        return entries


def _spread(objective: Estimand, weights: LogWeights) -> _Spread:
    outcomes = 0 if weights.log_outcome is None else weights.log_joint.shape[-3]
    particles, batch = weights.log_joint.shape[-2:]
    picks = None
    if outcomes and not objective.averages:
        if outcomes**particles > _MOST_OUTCOMES:
            raise InputError(
                f"Enumerating {outcomes} values for each of {particles} particles makes {outcomes}^{particles} joint "
                f"outcomes, more than {_MOST_OUTCOMES}: use fewer particles, 'score:leave-one-out' or 'measure'."
            )
        every = list(itertools.product(range(outcomes), repeat=particles))
        picks = torch.tensor(every, device=weights.log_joint.device)
    return _Spread(objective.averages, outcomes, particles, batch, picks)


def estimate(objective: Estimand, weights: LogWeights) -> tuple[Tensor, Tensor]:
    """Return the value of a bound and the surrogate of its gradient, each per datum, shape (batch,), in nats.

    Args:
        objective: the bound.
        weights: with a strategy for each site.

    Raises:
        InputError: if strategies cannot be mixed so, or enumeration is too large.
    """
    if weights.log_outcome is None and set(weights.strategies.values()) <= {PATHWISE, SUMMED, *BIASED}:
        surrogate = objective.surrogate(weights)
        return objective.reported(weights, surrogate), surrogate
    spread = _spread(objective, weights)
    own = weights.map(spread)
    probability = spread.probability(weights.log_outcome)
    bound = objective.surrogate(own)
    value = spread.gathered(objective.reported(own, bound), None if probability is None else probability.detach())
    signals = _signals(spread, bound, probability) if objective.averages else None
    surrogate = _scored(objective, weights, own, spread, bound, signals)
    for site, strategy in weights.strategies.items():
        if strategy in BRANCHING:
            surrogate = surrogate + _branched(objective, weights, own, spread, bound, propose(weights, site, strategy))
    result = spread.gathered(surrogate, probability)
    if signals is not None:
        extra = objective.control(signals, weights)
        result = result if extra is None else result + extra
    return value, result


def _total(own: LogWeights, sites: Mapping[str, str], kinds: tuple[str, ...]) -> Tensor | None:
    """Log q of the sites with one of these strategies, shape (particles, entries)."""
    chosen = [own.site_log_guide[site] for site, strategy in sites.items() if strategy in kinds]
    return sum(chosen[1:], start=chosen[0]) if chosen else None


def _signals(spread: _Spread, bound: Tensor, probability: Tensor | None) -> Tensor:
    """Of a bound that averages, the number of each particle, without gradient, shape (particles, batch)."""
    single = bound.detach().reshape(-1, spread.particles, spread.batch)
    if probability is None:
        return single[0]
    return (single * probability.detach().reshape(single.shape)).sum(0) * spread.particles


def _scored(
    objective: Estimand,
    weights: LogWeights,
    own: LogWeights,
    spread: _Spread,
    bound: Tensor,
    signals: Tensor | None,
) -> Tensor:
    """The bound, times what brings in the scores, less what is independent of each particle's own draw.

    `signals` are the numbers of the particles where the bound averages over them, else None.
    """
    sites = weights.strategies
    every = _total(own, sites, ("score", LEAVE_ONE_OUT))
    surrogate = bound if every is None else bound * magic(every.sum(0))
    apart = _total(own, sites, (LEAVE_ONE_OUT,))
    if signals is None:
        return surrogate if apart is None else surrogate + ((1 - magic(apart)) * _without_each(objective, own)).sum(0)
    if apart is not None:
        surrogate = surrogate + (1 - magic(apart[0])) * _entries(others(signals), spread)
    single = _total(own, sites, ("score",))
    if single is not None:
        surrogate = surrogate + (1 - magic(single[0])) * _entries(objective.baseline(signals, weights), spread)
    # -log q of a site at a fixed draw has a gradient of mean zero: noise alone
    cut = _total(own, sites, ("score", LEAVE_ONE_OUT, *BRANCHING))
    return surrogate if cut is None else surrogate + objective.entropy * (magic(cut[0]) - 1)


def _entries(signals: Tensor, spread: _Spread) -> Tensor:
    """Numbers by particle and datum, for every outcome of a particle."""
    return signals.expand(spread.outcomes or 1, *signals.shape).reshape(-1)


def _without_each(objective: Estimand, own: LogWeights) -> Tensor:
    """The bound with each particle's weight replaced by a mean of the others', shape (particles, entries).

    Source: Mnih & Rezende, Variational Inference for Monte Carlo Objectives, arXiv:1602.06725, equation 10.
    """
    particles = own.particles
    own = own.map(Tensor.detach)

    def placed(table: Tensor, rest: Tensor) -> Tensor:
        eye = torch.eye(particles, dtype=torch.bool, device=table.device).unsqueeze(-1)
        return torch.where(eye, rest.unsqueeze(0), table.unsqueeze(1)).flatten(1)

    def geometric(table: Tensor) -> Tensor:
        return placed(table, others(table))

    replaced = own.map(geometric)
    if objective.mean == "arithmetic":
        log_w = placed(own.log_w, _log_mean_of_others(own.log_w))
        replaced = replaced.with_log_w(log_w)
    with torch.no_grad():
        return objective.surrogate(replaced).reshape(particles, -1)


def _log_mean_of_others(log_w: Tensor) -> Tensor:
    particles = log_w.shape[0]
    eye = torch.eye(particles, dtype=torch.bool, device=log_w.device).unsqueeze(-1)
    return torch.logsumexp(log_w.unsqueeze(0).masked_fill(eye, -math.inf), 1) - math.log(particles - 1)


def _branched(
    objective: Estimand, weights: LogWeights, own: LogWeights, spread: _Spread, bound: Tensor, branches: Branches
) -> Tensor:
    """What one site adds whose gradient is a sum of differences between the bound at other values and at its own."""
    with torch.no_grad():
        runs = branch(weights, branches.site, branches.values)
        there = runs.map(spread)
        here = own.map(Tensor.detach)
        count, particles = there.log_joint.shape[:2]

        def placed(mine: Tensor, other: Tensor) -> Tensor:
            # entry (j, r, k): particle j's table, but branch r's where j is k
            eye = torch.eye(particles, dtype=torch.bool, device=mine.device)[:, None, :, None]
            return torch.where(eye, other.unsqueeze(0), mine[:, None, None, :]).flatten(1)

        at_branches = objective.surrogate(here.zip_with(there, placed)).reshape(count, particles, -1)
        if weights.log_outcome is not None and runs.log_outcome is not None:
            # enumerated sites further on have other probabilities there
            apart = spread(runs.log_outcome) - spread(weights.log_outcome)
            # nan where a value is impossible here and there
            at_branches = at_branches * torch.where(apart.isnan(), torch.zeros_like(apart), torch.exp(apart))
        # what cannot be drawn has no weight, and no part in the gradient
        impossible = there.log_guide == -math.inf
        difference = (at_branches - bound.detach()).masked_fill(impossible, 0.0)
    return (difference * zero(spread(branches.handles))).sum((0, 1))
