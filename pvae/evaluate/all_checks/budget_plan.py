"""The numbers of particles, simulations, temperatures and chains that fit into a budget of decoder evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pvae.errors import InputError, first_line
from pvae.evaluate.annealing.annealing_run import AnnealingSettings
from pvae.evaluate.annealing.leapfrog import LEAPFROG_STEPS
from pvae.evaluate.annealing.two_sided import CHAINS, TEMPERATURES, steps_of_annealing
from pvae.evaluate.calibration.calibrate import DRAWS, SIMULATIONS
from pvae.evaluate.diagnostics import DRAWS as UNIT_DRAWS

__all__ = ["BudgetPlan", "EvaluationBudget"]

Result = TypeVar("Result")

#: Errors of a user's programs; an evaluation with such an error is reported as not run.
_FAILURES = (InputError, NotImplementedError, RuntimeError, ValueError, ArithmeticError, LookupError, TypeError)

#: The largest shares of the budget for the weights of the data, for the simulated data, and for the sandwich.
_SHARE_OF_WEIGHTS, _SHARE_OF_SIMULATIONS, _SHARE_OF_SANDWICH = 0.15, 0.25, 0.6
#: The smallest numbers with which an evaluation is run: k-hat needs 21 particles.
_FEWEST_PARTICLES, _FEWEST_SIMULATIONS, _FEWEST_TEMPERATURES, _FEWEST_CHAINS, _FEWEST_DATA = 30, 200, 40, 4, 8
#: The largest number of data of the sandwich.
_DATA_OF_SANDWICH = 50
#: Each attempt to lower the cost of the sandwich divides its numbers by this factor.
_STEP = 1.1


@dataclass
class EvaluationBudget:
    """The decoder evaluations that are left, and the reason why a part was not computed.

    Attributes:
        left: decoder evaluations.
        reason: why the last part that `attempt` did not compute was left out; "" if there is none.
    """

    left: float
    reason: str = ""

    def attempt(self, cost: float, compute: Callable[[], Result]) -> Result | None:
        """Return the result of a function; None, with `reason`, if it costs too much or fails.

        Args:
            cost: the expected number of decoder evaluations.
            compute: the function.
        """
        if cost > self.left:
            self.reason = (
                f"It needs about {cost:.3g} decoder evaluations, and {max(0.0, self.left):.3g} of the budget are left."
            )
            return None
        try:
            result = compute()
        except _FAILURES as error:
            self.reason = first_line(error)
            return None
        self.left -= cost
        return result


@dataclass(frozen=True)
class BudgetPlan:
    """The numbers that fit into a budget.

    Attributes:
        data: the number of data of the weights.
        particles: the number of draws of z per datum of the weights.
        simulations: the number of simulated data.
        few: the number of particles of log p(x) of simulated data.
        with_evidence: whether log p(x) of the simulated data is computed.
        temperatures: the number of temperatures of the sandwich.
        chains: the number of chains of the sandwich.
        annealed: the number of data of the sandwich.
    """

    data: int
    particles: int
    simulations: int
    few: int
    with_evidence: bool
    temperatures: int
    chains: int
    annealed: int

    @classmethod
    def choose(cls, budget: float, data: int, particles: int, few: int) -> BudgetPlan:
        """Return the requested numbers, or the largest ones that fit into their shares of the budget.

        Numbers have least values. If these are too large for the budget, `EvaluationBudget.attempt` leaves the
        evaluation out.

        Args:
            budget: decoder evaluations.
            data: the number of data.
            particles: the requested number of draws of z per datum.
            few: the number of particles of log p(x) of simulated data.
        """
        fitting = int(_SHARE_OF_WEIGHTS * budget / data) - UNIT_DRAWS
        particles = min(particles, max(_FEWEST_PARTICLES, fitting))
        share = _SHARE_OF_SIMULATIONS * budget
        few = min(few, particles)
        with_evidence = share >= _FEWEST_SIMULATIONS * (DRAWS + 2 + few)
        simulations = int(share / (DRAWS + 2 + with_evidence * few))
        temperatures, chains, annealed = _numbers_of_sandwich(_SHARE_OF_SANDWICH * budget, data)
        return cls(
            data=data,
            particles=particles,
            simulations=min(SIMULATIONS, max(_FEWEST_SIMULATIONS, simulations)),
            few=few,
            with_evidence=with_evidence,
            temperatures=temperatures,
            chains=chains,
            annealed=annealed,
        )

    @property
    def cost_of_weights(self) -> int:
        """Decoder evaluations of the weights of the data."""
        return self.data * (self.particles + UNIT_DRAWS)

    @property
    def cost_of_simulations(self) -> int:
        """Decoder evaluations of the simulated data."""
        return self.simulations * (DRAWS + 2 + self.with_evidence * self.few)

    @property
    def cost_of_sandwich(self) -> int:
        """Decoder evaluations of the sandwich."""
        return steps_of_annealing("sandwich", self.annealing("guide", 0), self.annealed)

    def annealing(self, start: str, seed: int) -> AnnealingSettings:
        """Return the settings of the sandwich.

        Args:
            start: where the path starts, ``"guide"`` or ``"prior"``.
            seed: the seed of all draws.
        """
        return AnnealingSettings(self.temperatures, self.chains, start, "sigmoid", LEAPFROG_STEPS, seed)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers by name."""
        return dict(vars(self))

    def __str__(self) -> str:
        return (
            f"{self.data} data with {self.particles} particles; {self.simulations} simulated data; a sandwich of "
            f"{self.annealed} data with {self.temperatures} temperatures and {self.chains} chains"
        )


def _numbers_of_sandwich(share: float, data: int) -> tuple[int, int, int]:
    """Return numbers of temperatures, chains and data that fit into a share of the budget, or the least ones."""
    scale = 1.0
    while True:
        temperatures = max(_FEWEST_TEMPERATURES, round(TEMPERATURES * scale))
        chains = max(_FEWEST_CHAINS, round(CHAINS * math.sqrt(scale)))
        annealed = min(data, max(_FEWEST_DATA, round(_DATA_OF_SANDWICH * math.sqrt(scale))))
        settings = AnnealingSettings(temperatures, chains, "prior", "sigmoid", LEAPFROG_STEPS, 0)
        is_least = (temperatures, chains) == (_FEWEST_TEMPERATURES, _FEWEST_CHAINS) and annealed <= _FEWEST_DATA
        if is_least or steps_of_annealing("sandwich", settings, annealed) <= share:
            return temperatures, chains, annealed
        scale /= _STEP
