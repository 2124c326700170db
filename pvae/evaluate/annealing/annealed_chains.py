"""Forward and reverse annealing of all chains of a batch: the log weights of annealed importance sampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.evaluate.annealing.datum_noise import DatumNoise
from pvae.evaluate.annealing.leapfrog import adapt_step_sizes, hmc_move
from pvae.evaluate.annealing.path_density import PathDensity, PathPoint

__all__ = ["AnnealedChains", "AnnealedWeights", "Transition"]

Transition = Callable[[Tensor, float], Tensor]
"""A function of u, shape (chains, batch, numbers), and b that returns new u and leaves the density at b invariant."""


@dataclass(frozen=True)
class AnnealedWeights:
    """The log weights of one pass, and how often its proposals were accepted.

    Attributes:
        log_w: float64, shape (chains, batch), in nats.
        acceptance: the mean acceptance over temperatures and chains, float64, shape (batch,); NaN without moves.
        numbers: u at the end of the chains, shape (chains, batch, numbers).
    """

    log_w: Tensor
    acceptance: Tensor
    numbers: Tensor


class AnnealedChains:
    """Chains on the path of one batch; their moves do not change during a run.

    Args:
        density: the path.
        temperatures: b_0 = 0 to b_T = 1.
        leapfrog_steps: the number of leapfrog steps of a move.
        transition: a move to use in place of Hamiltonian Monte Carlo.
    """

    def __init__(
        self,
        density: PathDensity,
        temperatures: Tensor,
        leapfrog_steps: int,
        transition: Transition | None,
    ) -> None:
        self.density, self.temperatures = density, temperatures
        self.leapfrog_steps, self.transition = leapfrog_steps, transition
        self.step_sizes = torch.empty(0)

    def adapt(self, numbers: Tensor, noise: DatumNoise) -> None:
        """Choose the step sizes by a pilot run. The passes do not use its draws.

        Args:
            numbers: the start of the pilot chains, shape (chains, batch, numbers).
            noise: the random numbers of the pilot chains.
        """
        if self.transition is None:
            self.step_sizes = adapt_step_sizes(self.density, numbers, self.temperatures, noise, self.leapfrog_steps)

    def forward(self, numbers: Tensor, noise: DatumNoise) -> AnnealedWeights:
        """Return the log weights of chains from the start of the path to the posterior; E[w] = p(x).

        Args:
            numbers: exact draws of the start, shape (chains, batch, numbers).
            noise: the random numbers of the chains.
        Source: Neal, Annealed Importance Sampling, Statistics and Computing 11 (2001), equation 3.
        """
        last = len(self.temperatures) - 1
        return self._run(numbers, noise, [(index, index) for index in range(1, last + 1)], last)

    def reverse(self, numbers: Tensor, noise: DatumNoise) -> AnnealedWeights:
        """Return the log weights of chains from the posterior to the start of the path; E[1 / w] = 1 / p(x).

        Args:
            numbers: exact draws of the posterior, shape (chains, batch, numbers).
            noise: the random numbers of the chains.
        Source: Grosse, Ghahramani & Adams, Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo,
            arXiv:1511.02543, section 3.
        """
        last = len(self.temperatures) - 1
        return self._run(numbers, noise, [(index, index - 1) for index in range(last, 0, -1)], 0)

    def settle(self, numbers: Tensor, noise: DatumNoise, moves: int) -> Tensor:
        """Return u after moves at the posterior, b = 1.

        Args:
            numbers: u, shape (chains, batch, numbers).
            noise: the random numbers of the moves.
            moves: the number of moves.
        """
        for _ in range(moves):
            numbers, _ = self._move(numbers, len(self.temperatures) - 1, noise)
        return numbers

    def _run(self, numbers: Tensor, noise: DatumNoise, stages: list[tuple[int, int]], last: int) -> AnnealedWeights:
        """Return the log weights of a pass.

        Args:
            numbers: the start of the chains.
            noise: the random numbers of the chains.
            stages: for each stage, the index of its increment and the index of the temperature of the move after it.
            last: the index of a temperature at which no move follows.
        """
        b = self.temperatures.tolist()
        log_w = torch.zeros(numbers.shape[:2], dtype=torch.float64, device=numbers.device)
        accepted, moves = torch.zeros_like(log_w[0]), 0
        for increment, place in stages:
            point = self.density(numbers, b[place])
            log_w = log_w + (b[increment] - b[increment - 1]) * point.slope.double()
            if place == last:
                break
            numbers, acceptance = self._move(numbers, place, noise, point)
            accepted, moves = accepted + acceptance, moves + 1
        acceptance = accepted / moves if moves else torch.full_like(accepted, torch.nan)
        return AnnealedWeights(log_w, acceptance, numbers)

    def _move(
        self, numbers: Tensor, place: int, noise: DatumNoise, point: PathPoint | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return u after a move at one temperature, and the acceptance of each datum, shape (batch,).

        Args:
            numbers: u, shape (chains, batch, numbers).
            place: the index of the temperature.
            noise: the random numbers of the chains.
            point: the density at u, if it is known.
        """
        b = float(self.temperatures[place])
        if self.transition is not None:
            everything = torch.ones(numbers.shape[1], dtype=torch.float64, device=numbers.device)
            return self.transition(numbers, b), everything
        if point is None:
            point = self.density(numbers, b)
        size = self.step_sizes[place]
        move = hmc_move(self.density, numbers, point, b, size, noise.next_move(), self.leapfrog_steps)
        return move.numbers, move.acceptance.mean(0)
