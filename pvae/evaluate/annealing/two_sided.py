"""`ais` and `sandwich`: two-sided evidence by annealed importance sampling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from pvae.evaluate.annealing.annealed_chains import Transition
from pvae.evaluate.annealing.annealed_evidence import AnnealedEvidence, annealed_evidence_of
from pvae.evaluate.annealing.annealing_run import AnnealingRun, AnnealingSettings
from pvae.evaluate.annealing.datum_noise import seed_of
from pvae.evaluate.annealing.leapfrog import LEAPFROG_STEPS
from pvae.evaluate.annealing.path_density import PathGraphs
from pvae.evaluate.annealing.sandwich_finding import Sandwich, sandwich_of
from pvae.evaluate.annealing.simulated_data import NotSimulatedError, simulate_data
from pvae.evaluate.evaluated_data import ModelOrRun
from pvae.evaluate.evaluation_context import EvaluationContext, evaluation_context
from pvae.evaluate.finding import EvaluationSteps, evaluation_steps
from pvae.evaluate.running_statistics import CHUNK

__all__ = [
    "CHAINS",
    "DATA",
    "TEMPERATURES",
    "ais",
    "ais_of_context",
    "require_annealing",
    "sandwich",
    "sandwich_of_context",
    "steps_of_annealing",
]

DATA = 100
"""The default number of data of both functions, because one datum costs as much as thousands of ELBOs."""
TEMPERATURES, CHAINS = 1000, 16
_OBSERVED, _SIMULATED, _SIMULATION = range(3)


def ais(
    model: ModelOrRun,
    data: Any = None,
    *,
    temperatures: int = TEMPERATURES,
    chains: int = CHAINS,
    start: str = "prior",
    schedule: str = "sigmoid",
    leapfrog_steps: int = LEAPFROG_STEPS,
    limit: int | None = DATA,
    seed: int = 0,
    chunk: int = CHUNK,
    transition: Transition | None = None,
    progress: bool | None = None,
    **where: Any,
) -> AnnealedEvidence:
    """Return the log evidence by annealed importance sampling, in expectation a lower bound, in nats per datum.

    With start="prior", the result does not depend on the guide, so models with different guides are compared fairly.
    The chains move by Hamiltonian Monte Carlo in unconstrained coordinates. Their step sizes, one for each temperature
    and datum, are chosen by a pilot run and then fixed. Discrete latent sites of finite support are summed out, even if
    they are not marked for enumeration.

    The random numbers of a datum do not depend on `chunk`, so the result changes only by rounding if `chunk` changes.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
        temperatures: T, the number of increments of the inverse temperature. The bound rises with it like 1/T.
        chains: the number of chains of each datum.
        start: ``"prior"``: the path log p(z) + b log p(x given z); ``"guide"``: (1 - b) log q(z given x) +
            b log p(x, z), which is shorter for a good guide.
        schedule: the schedule of the inverse temperatures: ``"sigmoid"``, ``"linear"`` or ``"geometric"``.
        leapfrog_steps: the number of leapfrog steps of a move.
        limit: the largest number of data; None takes all.
        seed: the seed of all draws.
        chunk: the largest number of (chain, datum) evaluations at once; it bounds the memory.
        transition: a move to use in place of Hamiltonian Monte Carlo: a function of u, shape (chains, batch, numbers),
            and of the inverse temperature b, that leaves the density of the path at b invariant.
        progress: None for a bar on a terminal; False for no output.
        where: ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: if a latent site is shared by all data, is masked, a Delta, or discrete without a finite support; if
            a log-density is NaN; or if a setting is out of range.
    Sources: Neal, Annealed Importance Sampling, Statistics and Computing 11 (2001); Wu, Burda, Salakhutdinov & Grosse,
        On the Quantitative Analysis of Decoder-Based Generative Models, arXiv:1611.04273, section 4.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> finding = pvae.evaluate.ais(model, x, temperatures=5, chains=4, leapfrog_steps=2, progress=False)
        >>> print(finding.estimate)
        -2.727 ± 0.028
    """
    settings = AnnealingSettings(temperatures, chains, start, schedule, leapfrog_steps, seed, chunk, transition)
    with evaluation_context(model, data, limit=limit, seed=seed, **where) as context:
        expected = steps_of_annealing("ais", settings, context.batch.size)
        run = AnnealingRun(context, settings, EvaluationSteps())
        with evaluation_steps("ais", expected, progress=progress) as run.steps:
            return _ais(run)


def sandwich(
    model: ModelOrRun,
    data: Any = None,
    *,
    temperatures: int = TEMPERATURES,
    chains: int = CHAINS,
    start: str = "prior",
    schedule: str = "sigmoid",
    leapfrog_steps: int = LEAPFROG_STEPS,
    limit: int | None = DATA,
    seed: int = 0,
    chunk: int = CHUNK,
    transition: Transition | None = None,
    progress: bool | None = None,
    **where: Any,
) -> Sandwich:
    """Return a lower and an upper estimate of the log evidence, on the data and on data simulated from the model.

    The lower estimate is the result of `ais`. The upper one comes from chains in the reverse direction, from the
    posterior to the start of the path. For simulated data the z that made them is an exact draw of the posterior, and
    both estimates are rigorous in expectation (bidirectional Monte Carlo). For observed data the reverse chains start
    from the ends of the forward chains, resampled by their weights, after further moves at the posterior. The upper
    estimate is then approximate: it is too low if the forward chains miss a part of the posterior.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), or another form of data; None for the data of a run. See `pvae.evaluate`.
        temperatures: T, the number of increments of the inverse temperature. The gap falls with it like 1/T.
        chains: the number of chains of each datum, in each direction.
        start: as for `ais`.
        schedule: as for `ais`.
        leapfrog_steps: the number of leapfrog steps of a move.
        limit: the largest number of data, and the number of simulated data; None takes all.
        seed: the seed of all draws.
        chunk: the largest number of (chain, datum) evaluations at once; it bounds the memory.
        transition: as for `ais`; it also moves the chains of simulated data.
        progress: None for a bar on a terminal; False for no output.
        where: ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: as `ais`.
    Source: Grosse, Ghahramani & Adams, Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo,
        arXiv:1511.02543.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> model, x = pvae.VAE(4, latent=2, hidden=8), torch.eye(4)
        >>> sandwich = pvae.evaluate.sandwich(model, x, temperatures=4, chains=4, leapfrog_steps=2, progress=False)
        >>> print(sandwich.lower, "to", sandwich.upper)
        -2.791 ± 0.040 to -2.763 ± 0.038
    """
    settings = AnnealingSettings(temperatures, chains, start, schedule, leapfrog_steps, seed, chunk, transition)
    with evaluation_context(model, data, limit=limit, seed=seed, **where) as context:
        expected = steps_of_annealing("sandwich", settings, context.batch.size)
        run = AnnealingRun(context, settings, EvaluationSteps())
        with evaluation_steps("sandwich", expected, progress=progress) as run.steps:
            return _sandwich(run)


def steps_of_annealing(name: str, settings: AnnealingSettings, data: int) -> int:
    """Return the expected number of decoder evaluations.

    Args:
        name: ``"ais"`` or ``"sandwich"``.
        settings: the settings.
        data: the number of data.
    """
    if name == "ais":
        return settings.cost(data, reverse=False, settled=False)
    return settings.cost(data, reverse=True, settled=True) + settings.cost(data, reverse=True, settled=False)


def ais_of_context(context: EvaluationContext, settings: AnnealingSettings, steps: EvaluationSteps) -> AnnealedEvidence:
    """Return what `ais` returns, for the data of a context.

    Args:
        context: the model and the data.
        settings: the settings.
        steps: counts the decoder evaluations.

    Raises:
        InputError: as `ais`.
    """
    return _ais(AnnealingRun(context, settings, steps))


def sandwich_of_context(context: EvaluationContext, settings: AnnealingSettings, steps: EvaluationSteps) -> Sandwich:
    """Return what `sandwich` returns, for the data of a context.

    Args:
        context: the model and the data.
        settings: the settings.
        steps: counts the decoder evaluations.

    Raises:
        InputError: as `ais`.
    """
    return _sandwich(AnnealingRun(context, settings, steps))


def require_annealing(model: Any, data: Any, settings: AnnealingSettings, **where: Any) -> None:
    """Raise InputError if a model cannot be annealed, by a trial with two temperatures and without moves.

    Args:
        model: a run, a latent model, a class of Pyro's tutorials, a `pvae.pair`.
        data: `Splits` (the test split), a `Batch`, a tensor or an array.
        settings: the settings of the annealing.
        where: ``limit``, ``device``, ``split``, ``fields``, ``data_plate``; see `pvae.evaluate`.

    Raises:
        InputError: as `ais`.
    """
    short = replace(settings, temperatures=2, transition=_stay)
    with evaluation_context(model, data, seed=settings.seed, **where) as context:
        run = AnnealingRun(context, short, EvaluationSteps())
        run.graphs = PathGraphs(graph=False)
        run.passes(context, _OBSERVED, exact=None, reverse=False)


def _stay(numbers: Tensor, b: float) -> Tensor:
    return numbers


def _ais(run: AnnealingRun) -> AnnealedEvidence:
    before = run.steps.done
    passes = run.passes(run.context, _OBSERVED, exact=None, reverse=False)
    return annealed_evidence_of(passes.forward, run.settings, run.steps.done - before, run.context.subset)


def _sandwich(run: AnnealingRun) -> Sandwich:
    before = run.steps.done
    simulated, note = _on_simulated(run)
    passes = run.passes(run.context, _OBSERVED, exact=None, reverse=True)
    cost, subset = run.steps.done - before, run.context.subset
    return sandwich_of(passes, run.settings, cost, simulated=simulated, subset=subset, note=note)


def _on_simulated(run: AnnealingRun) -> tuple[Sandwich | None, str]:
    """Return the sandwich on simulated data, or None and the reason why there is none."""
    seed = seed_of(run.settings.seed, _SIMULATION)
    try:
        context, exact = simulate_data(run.context, run.path, run.start_block(), seed)
    except NotSimulatedError as error:
        return None, f"data cannot be simulated: {error}"
    before = run.steps.done
    passes = run.passes(context, _SIMULATED, exact=exact, reverse=True)
    return sandwich_of(passes, run.settings, run.steps.done - before, data=context.batch), ""
