"""Annealing of all data of an evaluation, chunk by chunk, with draws that do not depend on the chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.checks import require_whole
from pvae.errors import InputError
from pvae.evaluate.annealing.annealed_chains import AnnealedChains, AnnealedWeights, Transition
from pvae.evaluate.annealing.datum_noise import DatumNoise, seed_of
from pvae.evaluate.annealing.fitting_path import find_fitting_path
from pvae.evaluate.annealing.leapfrog import pilot_moves
from pvae.evaluate.annealing.path_density import PathDensity, PathGraphs
from pvae.evaluate.annealing.temperatures import make_temperatures
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.evaluate.finding import EvaluationSteps
from pvae.evaluate.running_statistics import CHUNK
from pvae.evaluate.shared_latents import shared_sites
from pvae.train.devices import isolated

__all__ = ["AnnealingRun", "AnnealingSettings", "Passes"]

STARTS = ("prior", "guide")
#: The largest number of chains of the pilot run.
_PILOT_CHAINS = 4
#: The largest number of evaluations in one run of the programs that draws the start of the chains. It is fixed, so the
#: draws do not depend on the chunks, unless the memory is too small.
_DRAWS_AT_ONCE = 1000
#: The purposes of the seeds of random numbers.
_PILOT_START, _START, _PILOT, _FORWARD, _REVERSE, _RESAMPLE = range(6)


@dataclass(frozen=True)
class AnnealingSettings:
    """The settings of an annealing.

    Attributes:
        temperatures: T, the number of increments of the inverse temperature.
        chains: the number of chains of each datum.
        start: where the path starts, ``"prior"`` or ``"guide"``.
        schedule: the schedule of the inverse temperatures.
        leapfrog_steps: the number of leapfrog steps of a move.
        seed: the seed of all draws.
        chunk: the largest number of (chain, datum) evaluations at once.
        transition: a move to use in place of Hamiltonian Monte Carlo.
    """

    temperatures: int
    chains: int
    start: str
    schedule: str
    leapfrog_steps: int
    seed: int
    chunk: int = CHUNK
    transition: Transition | None = None

    def __post_init__(self) -> None:
        for name in ("temperatures", "chains", "leapfrog_steps", "chunk"):
            require_whole(vars(self)[name], name)
        if self.start not in STARTS:
            raise InputError(f"start must be one of {', '.join(STARTS)}; got {self.start!r}.")
        make_temperatures(1, self.schedule)

    @property
    def settling_moves(self) -> int:
        """The number of moves at the posterior before a reverse pass on observed data: a tenth of the temperatures."""
        return math.ceil(self.temperatures / 10)

    def cost(self, data: int, *, reverse: bool, settled: bool) -> int:
        """Return the number of decoder evaluations of the passes over some data.

        Args:
            data: the number of data.
            reverse: whether there is a reverse pass.
            settled: whether moves at the posterior come before the reverse pass.
        """
        steps = self.leapfrog_steps
        if self.transition is not None:
            return data * self.chains * self.temperatures * (1 + reverse)
        one_pass = self.chains * (self.temperatures + (self.temperatures - 1) * steps)
        pilot = min(self.chains, _PILOT_CHAINS) * pilot_moves(self.temperatures) * (steps + 1)
        settling = self.chains * self.settling_moves * (steps + 1) if settled else 0
        return data * (pilot + one_pass * (1 + reverse) + settling)


@dataclass(frozen=True)
class Passes:
    """The log weights of all data.

    Attributes:
        forward: the log weights of the pass from the start to the posterior.
        reverse: the log weights of the pass from the posterior to the start; None if there is none.
    """

    forward: AnnealedWeights
    reverse: AnnealedWeights | None


class AnnealingRun:
    """The annealing of the data of one context.

    Args:
        context: the model and the data.
        settings: the settings.
        steps: the display of the progress.

    Raises:
        InputError: if all data share a latent site, if a latent site of the model cannot be annealed, or if the chains
            of one datum do not fit into memory.
    """

    def __init__(self, context: EvaluationContext, settings: AnnealingSettings, steps: EvaluationSteps) -> None:
        self.context, self.settings, self.steps = context, settings, steps
        shared = shared_sites(context, settings.chunk)
        if shared:
            raise InputError(
                f"Annealing needs a log weight for each datum; all data share site {shared[0]!r}. Estimate the log "
                "evidence of all data together by log_evidence (method 'is')."
            )
        wanted = max(1, settings.chunk // settings.chains)
        fitting = find_fitting_path(context, settings.start, settings.chains, wanted)
        self.path, self.data_at_once = fitting.programs, fitting.data_at_once
        self.draws_at_once = self.data_at_once if fitting.is_lowered else _DRAWS_AT_ONCE // settings.chains
        self.graphs = PathGraphs()
        self.temperatures = make_temperatures(settings.temperatures, settings.schedule)

    def start_block(self) -> int:
        """Return the number of data in a run that draws the start of the chains."""
        return max(1, min(self.draws_at_once, _DRAWS_AT_ONCE // self.settings.chains))

    def passes(self, context: EvaluationContext, stream: int, *, exact: Tensor | None, reverse: bool) -> Passes:
        """Return the log weights of a forward pass, and of a reverse pass if requested, over all data.

        Without exact draws the reverse pass starts from the ends of the forward chains, resampled by their weights,
        after further moves at the posterior. Its weights are then approximate.

        Args:
            context: the model and the data.
            stream: a number that separates these random numbers from those of other passes.
            exact: u of an exact draw of the posterior of each datum, shape (1, data, numbers).
            reverse: whether to run a reverse pass.

        Raises:
            InputError: if a log-density is NaN.
        """
        pilot = self._starts(context, min(self.settings.chains, _PILOT_CHAINS), stream, _PILOT_START)
        starts = self._starts(context, self.settings.chains, stream, _START)
        parts: list[Passes] = []
        for rows, batch in self._chunks(context):
            part = None if exact is None else exact[:, rows]
            parts.append(self._passes_of_batch(batch, rows, (pilot[:, rows], starts[:, rows]), stream, part, reverse))
        forward = _joined([part.forward for part in parts])
        backward = [part.reverse for part in parts if part.reverse is not None]
        return Passes(forward, _joined(backward) if backward else None)

    def _passes_of_batch(
        self,
        batch: Batch,
        rows: slice,
        starts: tuple[Tensor, Tensor],
        stream: int,
        exact: Tensor | None,
        reverse: bool,
    ) -> Passes:
        pilot, numbers = starts
        path = self.path.on(self.context.bound_to(batch))
        density = PathDensity(path, self.settings.start, self.graphs, self.steps.advance)
        chains = AnnealedChains(density, self.temperatures, self.settings.leapfrog_steps, self.settings.transition)
        chains.adapt(pilot, self._noise(rows, stream, _PILOT, pilot))
        forward = chains.forward(numbers, self._noise(rows, stream, _FORWARD, numbers))
        _require_numbers(forward, rows)
        if not reverse:
            return Passes(forward, None)
        noise = self._noise(rows, stream, _REVERSE, numbers)
        if exact is not None:
            posterior = exact.expand_as(numbers)
        else:
            posterior = self._resampled(forward, rows, stream)
            posterior = chains.settle(posterior, noise, self.settings.settling_moves)
        backward = chains.reverse(posterior, noise)
        _require_numbers(backward, rows)
        return Passes(forward, backward)

    def _noise(self, rows: slice, stream: int, purpose: int, like: Tensor) -> DatumNoise:
        indices = range(rows.start, rows.start + like.shape[1])
        seed = seed_of(self.settings.seed, stream)
        return DatumNoise(seed, purpose, indices, like.shape[0], like.shape[2], like)

    def _resampled(self, forward: AnnealedWeights, rows: slice, stream: int) -> Tensor:
        """Return the ends of forward chains, drawn again in proportion to their weights, of the same shape."""
        probabilities = torch.softmax(forward.log_w, 0).T.cpu()
        picks = []
        for number, weights in enumerate(probabilities):
            generator = torch.Generator()
            generator.manual_seed(seed_of(self.settings.seed, stream, _RESAMPLE, rows.start + number))
            picks.append(torch.multinomial(weights, len(weights), replacement=True, generator=generator))
        index = torch.stack(picks, 1).to(forward.numbers.device)
        return forward.numbers.gather(0, index.unsqueeze(-1).expand_as(forward.numbers))

    def _starts(self, context: EvaluationContext, chains: int, stream: int, purpose: int) -> Tensor:
        """Return u of draws of the start of the path for all data, shape (chains, data, numbers)."""
        parts = []
        for number, batch in enumerate(context.chunks(self.start_block())):
            path = self.path.on(context.bound_to(batch))
            with isolated(seed_of(self.settings.seed, stream, purpose, number)):
                draw = path.draw_guide if self.settings.start == "guide" else path.draw_prior
                parts.append(draw(chains).detach())
        return torch.cat(parts, 1)

    def _chunks(self, context: EvaluationContext) -> Iterator[tuple[slice, Batch]]:
        """Yield the rows and the data of each chunk."""
        start = 0
        for batch in context.chunks(self.data_at_once):
            yield slice(start, start + batch.size), batch
            start += batch.size


def _joined(parts: Sequence[AnnealedWeights]) -> AnnealedWeights:
    """Return the weights of all chunks of data, on the CPU."""
    return AnnealedWeights(
        torch.cat([part.log_w for part in parts], 1).cpu(),
        torch.cat([part.acceptance for part in parts]).cpu(),
        torch.cat([part.numbers for part in parts], 1).cpu(),
    )


def _require_numbers(weights: AnnealedWeights, rows: slice) -> None:
    """Refuse log weights that are NaN.

    Raises:
        InputError: with the number of the datum.
    """
    broken = weights.log_w.isnan().any(0).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            f"Annealing needs log-densities that are numbers; the log-density of datum {rows.start + broken[0]} is NaN "
            "at a z of its chains. Check the programs at draws of the prior, or use start='guide'."
        )
