"""The best q of a family for each datum of a batch, with its bounds and those of the guide and of a richer q."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pvae.batch import Batch
from pvae.errors import InputError
from pvae.evaluate.evaluation_context import EvaluationContext
from pvae.evaluate.finding import EvaluationSteps
from pvae.evaluate.inference_gaps.datum_optimiser import maximise
from pvae.evaluate.inference_gaps.latent_coordinates import LatentCoordinates
from pvae.evaluate.inference_gaps.moved_guide import MovedGuide, Moves
from pvae.evaluate.inference_gaps.richer_family import FullCovariance, PlanarFlow, RicherFamily
from pvae.objectives.weights_objective import WeightsObjective
from pvae.programs.bound import BoundPrograms
from pvae.train.devices import reseed
from pvae.weights import LogWeights
from pvae.weights.compute import weights_of
from pvae.weights.elbo import elbo_terms
from pvae.weights.handlers import PATHWISE

__all__ = ["BatchGaps", "SearchSettings", "gaps_of_batch"]

#: The largest number of particles of one run for the final bounds, and the number of draws to choose the better start.
_PARTICLES_AT_ONCE, _CHOICE = 100, 200

#: The largest number of latent coordinates of a datum for a full covariance.
_MOST_COORDINATES = 100

#: Draws of the guide at which a richer family starts.
_STARTING_DRAWS = 100

#: The learning rate of a flow, which starts at the best Gaussian, relative to the rate of the other searches.
_RATE_OF_FLOW = 0.2


@dataclass(frozen=True)
class SearchSettings:
    """The settings of the search for the best q and of its score.

    Attributes:
        particles: the number of draws per datum for the final bounds.
        steps: the number of gradient steps from each start.
        rate: the learning rate of the first steps.
        draws: the number of draws per datum and step.
        richer: the name of the richer family, or None.
        seed: the seed of all draws.
    """

    particles: int
    steps: int
    rate: float
    draws: int
    richer: str | None
    seed: int

    @property
    def evaluations_per_datum(self) -> int:
        """The expected number of decoder evaluations for a datum."""
        searches = 2 + {None: 0, "full-covariance": 1, "flow": 2}[self.richer]
        return searches * self.steps * self.draws + 2 * _CHOICE + (1 + bool(self.richer) + 1) * self.particles


@dataclass(frozen=True)
class BatchGaps:
    """The bounds of a batch, shape (batch,) each, float64 on the CPU, nats.

    Attributes:
        evidence: log p(x) by importance sampling with the best q of both families.
        elbo: the ELBO of the guide.
        best_elbo: the ELBO of the best q of its family.
        richer_elbo: the ELBO of the best q of the richer family; None without one.
        family: the family of each site of the guide.
        notes: notes on results that are left out.
    """

    evidence: Tensor
    elbo: Tensor
    best_elbo: Tensor
    richer_elbo: Tensor | None
    family: Mapping[str, str]
    notes: tuple[str, ...]


class _MeanLogWeight(WeightsObjective):
    """The ELBO; a site without a pathwise gradient gets the score with the mean of the other particles.

    If all sites have pathwise gradients, the parameters of log q are detached. This gradient has little noise near the
    optimum.
    Source: Roeder, Wu & Duvenaud, Sticking the Landing, arXiv:1703.09194.
    """

    pathwise = False
    averages = True

    def surrogate(self, weights: LogWeights) -> Tensor:
        """Return the mean of log_w over particles, shape (batch,), in nats."""
        if set(weights.strategies.values()) != {PATHWISE} or weights.not_reparameterised:
            return weights.log_w.mean(0)
        return (weights.log_joint - weights.log_guide_with_phi_stopped()).mean(0)


def gaps_of_batch(
    context: EvaluationContext, batch: Batch, settings: SearchSettings, index: int, steps: EvaluationSteps
) -> BatchGaps:
    """Return the bounds of one batch.

    Args:
        context: the model and the data.
        batch: the data of the batch.
        settings: how q is searched and scored.
        index: the number of the batch, which seeds its draws.
        steps: counts the decoder evaluations.
    """
    search = _Search(context, batch, settings, index, steps)
    programs = context.bound_to(batch)
    guide = MovedGuide.of(programs)
    notes: list[str] = []
    best = search.best_moves(guide, programs, notes)
    own = search.bounds(lambda particles: context.log_weights(batch, particles), stage=10)
    guide.set_moves(best)
    at_best = search.bounds(lambda particles: search.weights(guide.programs, particles), stage=11)
    log_w = [at_best.log_w]
    richer = search.richer_bounds(programs, notes) if settings.richer else None
    if richer is not None:
        log_w.append(richer)
    proposals = torch.cat(log_w)
    return BatchGaps(
        evidence=torch.logsumexp(proposals, 0) - torch.tensor(float(len(proposals))).log(),
        elbo=own.terms.mean(0),
        best_elbo=at_best.terms.mean(0),
        richer_elbo=None if richer is None else richer.mean(0),
        family=guide.family,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Bounds:
    """Log weights and terms of the ELBO, shape (particles, batch) each, float64 on the CPU."""

    log_w: Tensor
    terms: Tensor


@dataclass(frozen=True)
class _Search:
    """The search for the best q of one batch; the attributes are those of `gaps_of_batch`."""

    context: EvaluationContext
    batch: Batch
    settings: SearchSettings
    index: int
    steps: EvaluationSteps

    def weights(self, programs: BoundPrograms, particles: int) -> LogWeights:
        """Return the log weights of programs on the batch."""
        return weights_of(programs, particles, data_plate=self.context.data_plate)

    def bounds(self, weights: Callable[[int], LogWeights], stage: int) -> _Bounds:
        """Return log weights and terms of the ELBO for all particles of the final bounds.

        Args:
            weights: returns the log weights of a number of particles.
            stage: the number of this part of the evaluation, which seeds its draws.
        """
        parts = [(part.log_w, elbo_terms(part)) for part in map(weights, self._runs(stage, self.settings.particles))]
        log_w, terms = (torch.cat([tables[position] for tables in parts]).detach() for position in (0, 1))
        return _Bounds(log_w.to("cpu", torch.float64), terms.to("cpu", torch.float64))

    def _runs(self, stage: int, particles: int) -> Iterator[int]:
        """Yield the number of particles of each run; before each, the random generators are seeded by its number."""
        for run, start in enumerate(range(0, particles, _PARTICLES_AT_ONCE)):
            reseed(self.settings.seed, stage, self.index, run)
            count = min(_PARTICLES_AT_ONCE, particles - start)
            self.steps.advance(count * self.batch.size)
            yield count

    def best_moves(self, guide: MovedGuide, programs: BoundPrograms, notes: list[str]) -> Moves:
        """Return the moves of the best q for each datum, from the better of two starts.

        Args:
            guide: the guide that is moved.
            programs: both programs without moves.
            notes: gets a note if there is only one start.
        """
        starts = [guide.zero_moves()]
        from_prior = guide.moves_to_prior(programs)
        if from_prior is None:
            notes.append("the search starts only at the encoder's q, because a prior is of another family")
        else:
            starts.append(from_prior)
        found = [self._search(guide, start, stage) for stage, start in enumerate(starts, 20)]
        if len(found) == 1:
            return found[0]
        elbos = []
        for moves in found:
            guide.set_moves(moves)
            terms = [elbo_terms(self.weights(guide.programs, count)) for count in self._runs(30, _CHOICE)]
            elbos.append(torch.cat(terms).mean(0).nan_to_num(-torch.inf))
        return _choose(guide, found, elbos[1] > elbos[0], self.context.data_dim(programs))

    def _search(self, guide: MovedGuide, start: Moves, stage: int) -> Moves:
        """Return the moves after the gradient steps from one start."""
        objective = _MeanLogWeight(self.settings.draws, data_plate=self.context.data_plate)
        reseed(self.settings.seed, stage, self.index)
        programs = guide.programs

        def sum_of_bounds(moves: Mapping[tuple[str, str], Tensor]) -> Tensor:
            guide.set_moves(dict(moves))
            self.steps.advance(self.settings.draws * self.batch.size)
            terms = objective.terms(programs.model, programs.guide, programs.args, programs.kwargs, "all")
            return -terms.surrogate

        return maximise(sum_of_bounds, start, self.settings.steps, self.settings.rate)

    def richer_bounds(self, programs: BoundPrograms, notes: list[str]) -> Tensor | None:
        """Return the log weights of the best q of the richer family, shape (particles, batch).

        None if there is no richer family.

        Args:
            programs: both programs without moves.
            notes: gets a note if there is none.
        """
        try:
            coordinates = LatentCoordinates.of(self.context, programs)
        except InputError as error:
            notes.append(f"there is no richer family: {error}")
            return None
        if coordinates.count > _MOST_COORDINATES:
            notes.append(
                f"there is no richer family: a datum has {coordinates.count} latent coordinates, more than "
                f"{_MOST_COORDINATES}"
            )
            return None
        reseed(self.settings.seed, 40, self.index)
        values = self.context.log_weights(self.batch, _STARTING_DRAWS).values
        family: RicherFamily = FullCovariance()
        start = FullCovariance().start(coordinates.of_values(values).detach())
        best = self._search_richer(coordinates, family, start, self.settings.rate)
        if self.settings.richer == "flow":
            family = PlanarFlow()
            best = self._search_richer(coordinates, family, PlanarFlow().grow(best), _RATE_OF_FLOW * self.settings.rate)
        parts = []
        for count in self._runs(41, self.settings.particles):
            draws, log_q = family.sample(best, count)
            parts.append((coordinates.log_joint(draws) - log_q).to("cpu", torch.float64))
        return torch.cat(parts)

    def _search_richer(
        self, coordinates: LatentCoordinates, family: RicherFamily, start: Mapping[str, Tensor], rate: float
    ) -> dict[str, Tensor]:
        """Return the parameters of the best q of a richer family."""

        def sum_of_bounds(parameters: Mapping[str, Tensor]) -> Tensor:
            draws, log_q = family.sample(parameters, self.settings.draws)
            self.steps.advance(self.settings.draws * self.batch.size)
            return (coordinates.log_joint(draws) - log_q).mean(0).sum()

        return maximise(sum_of_bounds, start, self.settings.steps, rate)


def _choose(guide: MovedGuide, found: list[Moves], second: Tensor, data_dim: int) -> Moves:
    """Return for each datum the moves of the first or of the second search.

    Args:
        guide: the guide that is moved.
        found: the moves of both searches.
        second: whether the second search is better, shape (batch,).
        data_dim: the dimension of the plate over data in a site's batch shape, counted from the right.
    """
    chosen: Moves = {}
    for key, first in found[0].items():
        dim = data_dim - guide.parameter_dims[key]
        shape = [1] * first.dim()
        shape[dim] = len(second)
        chosen[key] = torch.where(second.reshape(shape), found[1][key], first)
    return chosen
