"""The log evidence of a part of the data from both sides, for `pvae.evaluate.all`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from pvae.data.subset import draw_subset
from pvae.errors import InputError
from pvae.evaluate.all_checks.budget_plan import BudgetPlan
from pvae.evaluate.annealing.sandwich_finding import Sandwich
from pvae.evaluate.annealing.two_sided import sandwich_of_context
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.evaluate.finding import evaluation_steps

__all__ = ["AnnealedPart", "annealed_part"]


@dataclass(frozen=True)
class AnnealedPart:
    """The sandwich of a random part of the evaluated data.

    Attributes:
        sandwich: the lower and the upper estimate.
        rows: the indices of its data among the evaluated data, shape (count,).
    """

    sandwich: Sandwich
    rows: Tensor


def annealed_part(context: EvaluationContext, plan: BudgetPlan, seed: int, *, progress: bool | None) -> AnnealedPart:
    """Return the sandwich of the planned number of data, drawn by the seed.

    The path starts from the guide, and from the prior if the guide cannot be its start. If the guide misses a mode,
    there is a gap on simulated data, because their reverse chains start from exact draws of the posterior.

    Args:
        context: the model and the data.
        plan: the numbers of temperatures, chains and data.
        seed: the seed of all draws.
        progress: None for a bar on a terminal and one line elsewhere; False for no output.

    Raises:
        InputError: if the model cannot be annealed.
    """
    batch, subset = draw_subset(context.batch, plan.annealed, seed)
    part = replace(context, batch=batch, subset=subset)
    with evaluation_steps("sandwich", plan.cost_of_sandwich, progress=progress) as steps:
        try:
            sandwich = sandwich_of_context(part, plan.annealing("guide", seed), steps)
        except InputError:
            sandwich = sandwich_of_context(part, plan.annealing("prior", seed), steps)
    return AnnealedPart(sandwich, subset.indices())
