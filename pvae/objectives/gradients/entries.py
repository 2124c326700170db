"""Entries: the values of the weights at which a bound is evaluated, with enumerated outcomes side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.errors import InputError
from pvae.objectives.joint_outcomes import MOST_TUPLES, outcome_tuples
from pvae.weights import LogWeights

__all__ = ["Entries", "ParticleEntries", "TupleEntries"]


@dataclass(frozen=True)
class Entries(ABC):
    """The mapping from tensors of the weights to columns of entries; each entry has one value of the bound.

    Attributes:
        outcomes: the number of joint values of the enumerated sites; 0 if no site is enumerated.
        particles: the number of draws of z per datum.
        batch: the number of data.
    """

    outcomes: int
    particles: int
    batch: int

    @abstractmethod
    def to_entries(self, table: Tensor) -> Tensor:
        """Return a tensor of shape (..., [outcomes,] particles, batch) as (..., particles of an entry, entries)."""

    @abstractmethod
    def probability(self, log_outcome: Tensor | None) -> Tensor | None:
        """Return the probability of each entry, shape (entries,), with its gradient; None if no site is enumerated.

        Args:
            log_outcome: the log-probability of each outcome, shape (outcomes, particles, batch), or None.
        """

    def per_datum(self, values: Tensor, probability: Tensor | None) -> Tensor:
        """Return the expectation over the entries of each datum, shape (batch,).

        Args:
            values: a number of each entry, shape (entries,).
            probability: the probability of each entry, shape (entries,); None if no site is enumerated.
        """
        if probability is None:
            return self._mean_per_datum(values)
        return (values * probability).reshape(-1, self.batch).sum(0)

    @abstractmethod
    def _mean_per_datum(self, values: Tensor) -> Tensor:
        """Return `per_datum` if no site is enumerated."""


@dataclass(frozen=True)
class ParticleEntries(Entries):
    """Each pair of a particle and an outcome is an entry, for a bound that is a mean over particles."""

    @classmethod
    def of(cls, weights: LogWeights) -> ParticleEntries:
        """Return the entries of weights."""
        return cls(_count_outcomes(weights), *weights.log_joint.shape[-2:])

    def to_entries(self, table: Tensor) -> Tensor:
        """Return a tensor of shape (..., [outcomes,] particles, batch) as (..., 1, outcomes * particles * batch)."""
        own_dims = 3 if self.outcomes else 2
        left = table.shape[: table.dim() - own_dims]
        return table.reshape(*left, 1, -1)

    def probability(self, log_outcome: Tensor | None) -> Tensor | None:
        """Return the probability of each outcome of each particle over the number of particles, shape (entries,)."""
        return None if log_outcome is None else torch.exp(log_outcome).reshape(-1) / self.particles

    def _mean_per_datum(self, values: Tensor) -> Tensor:
        return values.reshape(-1, self.batch).mean(0)

    def per_particle(self, values: Tensor, probability: Tensor | None) -> Tensor:
        """Return the expectation over the outcomes of each particle, shape (particles, batch).

        Args:
            values: a number of each entry, shape (entries,).
            probability: as `probability` returns it, without gradient.
        """
        table = values.reshape(-1, self.particles, self.batch)
        if probability is None:
            return table[0]
        # The probabilities of all particles sum to 1, and those of one particle to 1 / particles.
        return (table * probability.reshape(table.shape)).sum(0) * self.particles

    def repeat_for_outcomes(self, per_particle: Tensor) -> Tensor:
        """Return numbers of shape (particles, batch) for each outcome of a particle, shape (entries,)."""
        return per_particle.expand(self.outcomes or 1, *per_particle.shape).reshape(-1)


@dataclass(frozen=True)
class TupleEntries(Entries):
    """An entry is a datum with one outcome for each of its particles, for a bound of all particles together.

    Attributes:
        choices: the outcome of each particle in each tuple, shape (tuples, particles); None if no site is enumerated.
    """

    choices: Tensor | None

    @classmethod
    def of(cls, weights: LogWeights) -> TupleEntries:
        """Return the entries of weights.

        Raises:
            InputError: if there are too many tuples of outcomes.
        """
        outcomes = _count_outcomes(weights)
        particles, batch = weights.log_joint.shape[-2:]
        if not outcomes:
            return cls(outcomes, particles, batch, None)
        if outcomes**particles > MOST_TUPLES:
            raise InputError(
                f"Enumeration is limited to {MOST_TUPLES} joint outcomes of all particles; {outcomes} values for each "
                f"of {particles} particles make {outcomes}^{particles}. Use fewer particles, 'score:leave-one-out' or "
                "'measure'."
            )
        return cls(outcomes, particles, batch, outcome_tuples(outcomes, particles, weights.log_joint.device))

    def to_entries(self, table: Tensor) -> Tensor:
        """Return a tensor of shape (..., [outcomes,] particles, batch) as (..., particles, tuples * batch)."""
        if self.choices is None:
            return table
        # (..., tuples, particles, batch)
        chosen = table[..., self.choices, torch.arange(self.particles, device=table.device), :]
        return chosen.movedim(-2, -3).flatten(-2)

    def probability(self, log_outcome: Tensor | None) -> Tensor | None:
        """Return the probability of each tuple of outcomes, shape (entries,)."""
        return None if log_outcome is None else torch.exp(self.to_entries(log_outcome).sum(0))

    def _mean_per_datum(self, values: Tensor) -> Tensor:
        return values


def _count_outcomes(weights: LogWeights) -> int:
    return 0 if weights.log_outcome is None else weights.log_joint.shape[-3]
