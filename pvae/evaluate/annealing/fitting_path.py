"""The programs of an annealing, and the number of data that fit into the free memory at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from pvae.evaluate.annealing.path_density import PathDensity, PathGraphs
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.programs.fitting_runs import run_within_memory
from pvae.programs.memory_limit import needs_limit
from pvae.randomness import preserved_randomness
from pvae.weights.path_terms import PathPrograms
from pvae.weights.vectorise import can_vectorise

__all__ = ["FittingPath", "find_fitting_path"]

_ADVICE = "Use fewer chains, or another device."


@dataclass(frozen=True)
class FittingPath:
    """The programs of an annealing, and how many data are annealed at once.

    Attributes:
        programs: both programs.
        data_at_once: the number of data with chains that move at the same time.
        is_lowered: whether this number is smaller than the requested one.
    """

    programs: PathPrograms
    data_at_once: int
    is_lowered: bool


def find_fitting_path(context: EvaluationContext, start: str, chains: int, wanted: int) -> FittingPath:
    """Return the programs, and the largest number of data, at most `wanted`, with chains that fit into free memory.

    The memory of the log-density of the path and its gradient is measured with few data. If the number is lowered, a
    warning gives the new number.

    Args:
        context: the model and the data.
        start: where the path starts, ``"prior"`` or ``"guide"``.
        chains: the number of chains of each datum.
        wanted: the requested number of data.

    Raises:
        InputError: if the chains of one datum do not fit, or a latent site of the model cannot be annealed.
    """

    def look(count: int) -> PathPrograms:
        part = context.batch.take(slice(0, context.data_at_once(count)))
        programs = context.bound_to(part)
        vectorised = chains == 1 or can_vectorise(programs, chains)
        return PathPrograms.of(programs, context.data_plate, vectorised=vectorised)

    def evaluate(count: int) -> PathPrograms:
        path = look(count)
        numbers = path.draw_prior(1).detach()
        numbers = numbers.expand(chains, *numbers.shape[1:])
        PathDensity(path, start, PathGraphs(graph=False))(numbers, 0.5)
        return path

    wanted = min(wanted, context.batch.size)
    if not needs_limit(context.programs.modules, context.batch.take(slice(0, wanted)), wanted * chains):
        return FittingPath(look(wanted), wanted, is_lowered=False)
    look(1)  # an error of the programs is not about memory
    least = f"Annealing of {context.data_at_once(1)} of the data with {chains} chains"
    with preserved_randomness():
        fitting = run_within_memory(evaluate, wanted, context.batch.device, least=least, advice=_ADVICE)
    if fitting.shortage:
        warnings.warn(
            f"{fitting.size} data are annealed at a time instead of {wanted}: annealing of {wanted} data with "
            f"{chains} chains {fitting.shortage} The draws depend on this number.",
            stacklevel=2,
        )
    return FittingPath(fitting.result, fitting.size, is_lowered=bool(fitting.shortage))
