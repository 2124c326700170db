"""Hamiltonian Monte Carlo moves of all chains and data at once, and the adaptation of their step sizes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pvae.evaluate.annealing.datum_noise import DatumNoise, MoveNoise
from pvae.evaluate.annealing.path_density import PathDensity, PathPoint

__all__ = ["LEAPFROG_STEPS", "TARGET_ACCEPTANCE", "HmcMove", "adapt_step_sizes", "hmc_move", "pilot_moves"]

LEAPFROG_STEPS = 10
TARGET_ACCEPTANCE = 0.65

_FIRST_STEP_SIZE = 0.1
_WARM_UP_MOVES = 30
_MOVES_OF_PILOT = 100
_RATE, _WARM_UP_RATE = 0.25, 0.5


class HmcMove(NamedTuple):
    """The result of one move of all chains.

    Attributes:
        numbers: u after the move, shape (chains, batch, numbers).
        acceptance: the probability with which the proposal was accepted, float64, shape (chains, batch).
    """

    numbers: Tensor
    acceptance: Tensor


def hmc_move(
    density: PathDensity, numbers: Tensor, point: PathPoint, b: float, step_size: Tensor, noise: MoveNoise, steps: int
) -> HmcMove:
    """Move all chains by Hamiltonian Monte Carlo, which leaves the density of the path at `b` invariant.

    A proposal with an energy that is not finite is rejected.

    Args:
        density: the path.
        numbers: u, shape (chains, batch, numbers).
        point: the density at u and `b`.
        b: the inverse temperature.
        step_size: the step size of each datum, shape (batch,).
        noise: the random numbers of the move.
        steps: the number of leapfrog steps.

    Source: Neal, MCMC Using Hamiltonian Dynamics, arXiv:1206.1901, section 3.2 (the acceptance test).
    """
    size = (step_size.to(numbers.dtype) * noise.jitter).unsqueeze(-1)
    momentum, proposal = noise.momentum, numbers
    energy = _kinetic(momentum) - point.log_target.double()
    for _ in range(steps):
        momentum = momentum + 0.5 * size * point.gradient
        proposal = proposal + size * momentum
        point = density(proposal, b)
        momentum = momentum + 0.5 * size * point.gradient
    log_ratio = energy - (_kinetic(momentum) - point.log_target.double())
    log_ratio = log_ratio.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
    accepted = noise.log_uniform < log_ratio
    moved = torch.where(accepted.unsqueeze(-1), proposal, numbers)
    return HmcMove(moved, log_ratio.clamp(max=0.0).exp())


def _kinetic(momentum: Tensor) -> Tensor:
    """Return half the squared length, float64, shape (chains, batch)."""
    return 0.5 * momentum.double().square().sum(-1)


def pilot_moves(temperatures: int) -> int:
    """Return the number of moves of a pilot chain.

    Args:
        temperatures: the number of increments of the inverse temperature.
    """
    return _WARM_UP_MOVES + temperatures * _moves_at_each(temperatures)


def _moves_at_each(temperatures: int) -> int:
    """Return the number of moves of a pilot chain at each temperature."""
    return max(1, math.ceil(_MOVES_OF_PILOT / temperatures))


def adapt_step_sizes(
    density: PathDensity, numbers: Tensor, temperatures: Tensor, noise: DatumNoise, steps: int
) -> Tensor:
    """Return the step size of each temperature and datum from a pilot run, shape (temperatures, batch).

    The pilot chains move through all temperatures while the step sizes follow their acceptance towards 65 %. They are
    used for nothing else. The chains of the estimate have fixed step sizes, because an adapting move does not leave its
    density invariant.

    Args:
        density: the path.
        numbers: the start of the pilot chains, shape (chains, batch, numbers).
        temperatures: b_0 to b_T.
        noise: the random numbers of the pilot chains.
        steps: the number of leapfrog steps.
    """
    log_size = torch.full(numbers.shape[1:2], math.log(_FIRST_STEP_SIZE), dtype=torch.float64, device=numbers.device)
    later = temperatures[1:].tolist()
    moves = _moves_at_each(len(later))
    sizes = [log_size]
    for index, b in enumerate(later):
        warm_up = _WARM_UP_MOVES if index == 0 else 0
        for number in range(warm_up + moves):
            point = density(numbers, b)
            move = hmc_move(density, numbers, point, b, log_size.exp(), noise.next_move(), steps)
            rate = _WARM_UP_RATE if number < warm_up else _RATE
            log_size = log_size + rate * (move.acceptance.mean(0) - TARGET_ACCEPTANCE)
            numbers = move.numbers
        sizes.append(log_size)
    return _smooth(torch.stack(sizes[1:2] + sizes[1:])).exp()


def _smooth(log_sizes: Tensor) -> Tensor:
    """Return the running mean of logarithms of step sizes over neighbouring temperatures, of the same shape."""
    half = len(log_sizes) // 50
    if half == 0:
        return log_sizes
    padded = torch.cat([log_sizes[:1].expand(half, -1), log_sizes, log_sizes[-1:].expand(half, -1)])
    return padded.unfold(0, 2 * half + 1, 1).mean(-1)
