"""`Validation`: the validation score after each epoch, for most objectives the importance-weighted bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from torch import Tensor

from pvae.accelerators import as_double
from pvae.batch import Batch
from pvae.errors import InputError
from pvae.json_values import json_value
from pvae.products import ProductChoices
from pvae.programs.classifier import accuracy_of
from pvae.programs.fitting_runs import FittingRun, run_within_memory
from pvae.programs.memory_limit import needs_limit
from pvae.randomness import evaluating, seed_generators
from pvae.train.computation import Computation
from pvae.train.devices import capture_generators, isolated, restore_generators
from pvae.train.traced_weights.weight_runs import WeightRuns
from pvae.weights import log_mean_exp
from pvae.weights.compute import weights_of

__all__ = ["Validation"]

#: The greatest number of draws of z that are computed at a time, by the kind of device.
_DRAWS_AT_A_TIME = {"cpu": 5000, "cuda": 100_000}

#: The least number of parameters times evaluations of the model in a validation with which graphs are used: the time to
#: make a graph in multiplications, divided by a few tens of epochs.
_LEAST_WORK = 3e9

#: The errors of programs without an importance-weighted bound.
_ERRORS = (InputError, RuntimeError, ValueError, IndexError)


class Validation:
    """Computes the validation score, in nats per datum, on the same data and from the same seed at each epoch.

    If `trace` has been called, graphs compute the importance-weighted bound. Graphs then compute all validations, also
    the first one of a process, so a resumed training has the same numbers as an uninterrupted one. Each validation
    compares a part of its first data with Pyro. If a callback has changed a Python value of the programs, the graphs
    are made again.

    Args:
        computation: the computation of a training step.
        batch: the validation data.
        particles: the number of draws of z per datum.
        seed: the seed of the draws.

    Attributes:
        data_at_once: the number of data for which log weights are computed at a time.
        ranks: whether the score ranks parameters.
        kind: ``"importance-weighted"``; or ``"objective"`` if the score is minus the loss of the objective.
        reason: the reason why the score is the objective's own and not a bound; "" if there is none.
    """

    def __init__(self, computation: Computation, batch: Batch, *, particles: int, seed: int) -> None:
        self.computation, self.batch, self.particles, self.seed = computation, batch, particles, seed
        self.data_at_once = max(1, _DRAWS_AT_A_TIME.get(batch.device.type, 5000) // particles)
        objective = computation.objective
        self.reason = objective.no_bound
        self.ranks = not objective.unranked
        self.kind = "objective" if self.reason or objective.ranks_by_loss else "importance-weighted"
        self._products: ProductChoices | None = None
        self._runs: WeightRuns | None = None

    def trace(self, products: ProductChoices) -> None:
        """Let graphs compute the bound, if the saved time exceeds their cost within a few epochs.

        Args:
            products: the libraries of the matrix products of the graphs.
        """
        size = sum(parameter.numel() for parameter in self.computation.programs.modules.parameters())
        if size * self.particles * self.batch.size >= _LEAST_WORK:
            self._products = products

    def has_weights(self) -> bool:
        """Return whether the importance-weighted bound exists; one particle is tried on the first part of the data."""
        programs = self.computation.programs
        if self.reason:
            return False
        with isolated(self.seed), evaluating(*programs.all_modules), torch.no_grad():
            try:
                first = programs.bound_with(next(self._chunks())).without_loss_terms()
                return bool(weights_of(first, 1).log_w.numel())
            except _ERRORS:
                return False

    def fit_into_memory(self) -> str:
        """Lower the number of data at a time until their log weights fit into the free memory.

        Returns:
            One line about what was lowered and why; "" if nothing was lowered.

        Raises:
            InputError: if the log weights of one datum do not fit into memory, or the loss of all data if it is the
                score.
        """
        if self.kind != "importance-weighted":
            self._require_memory_for_loss()
            return ""
        size = min(self.data_at_once, self.batch.size)
        first = self.batch.take(slice(0, size))
        if not needs_limit(self.computation.programs.modules, first, size * self.particles):
            return ""
        least = f"The validation bound of one datum with {self.particles} particles"
        fitting = self._try(self._try_bounds, size, least, "Lower validation_particles.")
        if not fitting.shortage:
            return ""
        self.data_at_once = fitting.size
        return (
            f"the validation bound is computed for {fitting.size} data at a time. That of {size} data with "
            f"{self.particles} particles {fitting.shortage}"
        )

    def _require_memory_for_loss(self) -> None:
        programs, objective, size = self.computation.programs, self.computation.objective, self.batch.size
        if needs_limit(programs.modules, self.batch, size * objective.particles):
            least = f"The loss of all {size} validation data"
            self._try(lambda _: self._try_loss(), 1, least, "Lower validation_limit.")

    def _try(self, run: Callable[[int], None], size: int, least: str, advice: str) -> FittingRun[None]:
        with isolated(self.seed), evaluating(*self.computation.parameters.modules), torch.no_grad():
            return run_within_memory(run, size, self.batch.device, least=least, advice=advice)

    def _try_bounds(self, count: int) -> None:
        with suppress(*_ERRORS):  # the validation itself reports this error
            self._bounds(self.computation.programs.arguments(self.batch.take(slice(0, count))))

    def _try_loss(self) -> None:
        with suppress(*_ERRORS):
            self._minus_loss()

    def __call__(self) -> dict[str, float | None]:
        """Return the score and its standard error over the data, and the accuracy of a classifier if there is one.

        A number that is unknown or not finite is None.
        """
        with isolated(self.seed), evaluating(*self.computation.parameters.modules), torch.no_grad():
            accuracy = accuracy_of(self.computation.parameters.latent_model, self.batch)
            scores = {} if accuracy is None else {"validation_accuracy": accuracy}
            if self.kind == "importance-weighted":
                try:
                    return self._importance_weighted_bound() | scores
                except _ERRORS as error:
                    self.kind, self.reason = "objective", str(error)
                    seed_generators(self.seed)  # the draws of all validations are the same
            return self._minus_loss() | scores

    def _parts(self) -> list[slice]:
        """Return the rows of one part of the data after another."""
        size = self.batch.size
        return [slice(start, min(start + self.data_at_once, size)) for start in range(0, size, self.data_at_once)]

    def _chunks(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield the arguments of the programs for a part of the data after another."""
        for part in self._parts():
            yield self.computation.programs.arguments(self.batch.take(part))

    def _prepared_runs(self, products: ProductChoices) -> WeightRuns:
        """Return the runs of the graphs.

        Make a graph for each size of a part if there is none, or if it disagrees with Pyro.
        """
        parts = self._parts()
        if self._runs is not None and self._runs.still_agrees(self.batch.take(parts[0]), self.particles):
            return self._runs
        random = capture_generators()
        programs = self.computation.programs
        runs = self._runs = WeightRuns(self.computation.parameters.latent_model, programs, products)
        runs.expect(math.inf)
        for size in {part.stop - part.start for part in parts}:
            # Pyro computes the first run of each size, on other data than the trace
            for rows in (torch.arange(size).flip(0), slice(self.batch.size - size, None)):
                runs(self.batch.take(rows), self.particles)
        restore_generators(random)
        return runs

    def _bounds(self, arguments: tuple[Tensor, ...]) -> Tensor:
        """Return the importance-weighted bound of some data, shape (data,), in nats."""
        weights = weights_of(self.computation.programs.bound_with(arguments).without_loss_terms(), self.particles)
        return log_mean_exp(as_double(weights.log_w))

    def _importance_weighted_bound(self) -> dict[str, float | None]:
        if self._products is None:
            bound = torch.cat([self._bounds(arguments) for arguments in self._chunks()])
        else:
            runs = self._prepared_runs(self._products)
            parts = [self.batch.take(part) for part in self._parts()]
            bound = torch.cat([log_mean_exp(runs(part, self.particles)[0]) for part in parts])
        error = bound.std() / math.sqrt(len(bound)) if len(bound) > 1 else torch.tensor(math.nan)
        return json_value({"validation_bound": bound.mean(), "validation_error": error})

    def _minus_loss(self) -> dict[str, float | None]:
        """Return minus the loss of the objective on all validation data together, as one batch."""
        arguments = self.computation.programs.arguments(self.batch)
        terms, count = self.computation.terms(arguments, self.computation.objective.players[0])
        bound = -float(terms.loss) / float(count)
        return json_value({"validation_bound": bound, "validation_error": math.nan})
